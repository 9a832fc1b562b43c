#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/config.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/spinctl.h"

#define AT(field) offsetof(struct ctl_settings, field)
#define FIRST_CONTACT_MS 2000

static const struct sp_setting table[] = {
    {"coordinator", "url", SP_SET_STR, AT(url), "", 0, 0, "", "",
     "Where the coordinator listens: ipc:///path or tls+tcp://host:port; empty: the socket in "
     "state_dir."},
    {"coordinator", "state_dir", SP_SET_STR, AT(state_dir), "/var/lib/spin", 0, 0, "", "",
     "State directory of a coordinator on this machine."},
    {"coordinator", "token_file", SP_SET_STR, AT(token_file), "", 0, 0, "", "",
     "File with the token (mode 0600); empty: admin.token in state_dir."},
    {"coordinator", "tls_ca", SP_SET_STR, AT(ca_file), "", 0, 0, "", "",
     "PEM file of the authority that signed the coordinator's certificate."},
    {"coordinator", "tls_cert", SP_SET_STR, AT(cert_file), "", 0, 0, "", "",
     "PEM file with this client's certificate and key."},
    {"coordinator", "tls_server_name", SP_SET_STR, AT(server_name), "", 0, 0, "", "",
     "DNS name that the coordinator's certificate must have."},
    {"coordinator", "timeout", SP_SET_MS, AT(timeout_ms), "30 s", 100, 86400000, "ms", "",
     "How long a command tries before it gives up, once the coordinator has answered."},
};

static const struct sp_config_spec spec = {.title = "spinctl",
                                           .settings = table,
                                           .count = SP_COUNT(table),
                                           .struct_bytes = sizeof(struct ctl_settings)};

void ctl_settings_init(struct ctl *ctl)
{
    sp_config_init(&spec, &ctl->settings);
}

static void replace(char **value, const char *with)
{
    if (!with || with[0] == '\0')
        return;
    free(*value);
    *value = sp_xstrdup(with);
}

/* Named after an address, a state directory is another coordinator: the address, and the token for
 * it, do not count any more. */
static void use_state_dir(struct ctl_settings *settings, const char *dir)
{
    if (!dir || dir[0] == '\0')
        return;
    replace(&settings->state_dir, dir);
    if (settings->url[0] == '\0')
        return;
    settings->url[0] = '\0';
    settings->token_file[0] = '\0';
}

/* File, then environment; options of the command line were put into `given` before and win. */
enum sp_err ctl_load_settings(struct ctl *ctl, struct sp_error *err)
{
    if (ctl->settings_loaded)
        return SP_OK;
    struct ctl_settings given = ctl->settings;
    struct ctl_settings file;
    sp_config_init(&spec, &file);
    enum sp_err rc = SP_OK;
    const char *path = ctl->config_path;
    if (!path && sp_path_exists("/etc/spin/spinctl.conf"))
        path = "/etc/spin/spinctl.conf";
    if (path)
        rc = sp_config_load(&spec, path, &file, err);
    if (rc == SP_OK) {
        use_state_dir(&file, getenv("SPIN_STATE_DIR"));
        replace(&file.url, getenv("SPIN_COORDINATOR"));
        replace(&file.token_file, getenv("SPIN_TOKEN_FILE"));
        if (ctl->state_dir_given)
            use_state_dir(&file, given.state_dir);
        replace(&file.url, given.url);
        replace(&file.token_file, given.token_file);
        replace(&file.ca_file, given.ca_file);
        replace(&file.cert_file, given.cert_file);
        replace(&file.server_name, given.server_name);
        if (ctl->timeout_given)
            file.timeout_ms = given.timeout_ms;
    }
    sp_config_deinit(&spec, &given);
    ctl->settings = file;
    ctl->settings_loaded = rc == SP_OK;
    return rc;
}

char *ctl_token_path(const struct ctl *ctl)
{
    const struct ctl_settings *s = &ctl->settings;
    return s->token_file[0] ? sp_xstrdup(s->token_file) : sp_path_join(s->state_dir, "admin.token");
}

static enum sp_err read_token(struct ctl *ctl, struct sp_error *err)
{
    char *path = ctl_token_path(ctl);
    char *data = NULL;
    size_t length = 0;
    enum sp_err rc = sp_read_secret(path, 4096, &data, &length, err);
    if (rc == SP_OK) {
        data[strcspn(data, " \t\r\n")] = '\0';
        ctl->token = data;
    } else if (rc != SP_EDENIED) {
        sp_wrap(err, rc,
                "read the token (is a coordinator running with this state directory? give "
                "--state-dir, or --coordinator and --token-file)");
    }
    free(path);
    return rc;
}

static enum sp_err open_client(struct ctl *ctl, struct sp_error *err)
{
    if (ctl->client)
        return SP_OK;
    enum sp_err rc = ctl_load_settings(ctl, err);
    if (rc == SP_OK)
        rc = read_token(ctl, err);
    if (rc != SP_OK)
        return rc;
    struct ctl_settings *s = &ctl->settings;
    if (!s->url[0]) {
        char absolute[4096];
        if (s->state_dir[0] == '/')
            snprintf(absolute, sizeof(absolute), "%s", s->state_dir);
        else if (!realpath(s->state_dir, absolute))
            return sp_fail(err, SP_ENOTFOUND, "state directory %s", s->state_dir);
        free(s->url);
        s->url = sp_xprintf("ipc://%s/coordinator.sock", absolute);
    }
    int64_t first = ctl->timeout_given ? s->timeout_ms : SP_MIN(s->timeout_ms, FIRST_CONTACT_MS);
    struct proto_client_options options = {
        .url = s->url,
        .tls = {.ca_file = s->ca_file, .cert_file = s->cert_file, .server_name = s->server_name},
        .token = ctl->token,
        .connect_ms = SP_MIN(first, FIRST_CONTACT_MS),
        .request_ms = CTL_LONG_MS, /* each call says how patient it is */
        .backoff_max_ms = 1000,
        .unreachable_ms = first,
    };
    return proto_client_open(&options, &ctl->client, err);
}

void ctl_close(struct ctl *ctl)
{
    proto_client_free(ctl->client);
    ctl->client = NULL;
    free(ctl->token);
    ctl->token = NULL;
    sp_config_deinit(&spec, &ctl->settings);
}

enum sp_err ctl_call(struct ctl *ctl, enum proto_type type, const void *body, const void **ret,
                     struct sp_error *err)
{
    struct sp_error detail;
    enum sp_err rc = open_client(ctl, err);
    if (rc != SP_OK)
        return rc;
    int64_t patience_ms = SP_MAX(ctl->patience_ms, ctl->settings.timeout_ms);
    ctl->patience_ms = 0;
    rc = proto_call(ctl->client, type, body, patience_ms, ret, &detail);
    bool absent = rc == SP_EUNAVAIL || rc == SP_ETIMEOUT;
    if (!absent && !ctl->answered) {
        ctl->answered = true;
        proto_client_set_unreachable(ctl->client, ctl->settings.timeout_ms);
    }
    if (rc == SP_OK)
        return SP_OK;
    if (absent && !ctl->answered)
        return sp_fail(err, rc,
                       "no coordinator answers: %s: is it running (`systemctl status "
                       "spin-coordinator`)? Another one is named by --state-dir or --coordinator",
                       detail.text);
    return sp_fail(err, rc, "%s", detail.text);
}

enum sp_err ctl_admin(struct ctl *ctl, const char *verb, const char *run, json_t *args,
                      json_t **ret, struct sp_error *err)
{
    char *text = args ? sp_json_canonical(args) : sp_xstrdup("{}");
    struct proto_admin request = {.verb = verb, .run = run ? run : "", .args = text};
    const void *reply = NULL;
    enum sp_err rc = ctl_call(ctl, PROTO_ADMIN, &request, &reply, err);
    if (rc == SP_OK) {
        const struct proto_admin_reply *admin = reply;
        rc = sp_json_parse(admin->json, strlen(admin->json), "reply of the coordinator", ret, err);
    }
    free(text);
    json_decref(args);
    return rc;
}

enum sp_err ctl_blob(struct ctl *ctl, const struct sp_digest *digest, struct sp_buf *to,
                     struct sp_error *err)
{
    struct proto_blob_get request = {.sha256 = *digest};
    const void *reply = NULL;
    enum sp_err rc = ctl_call(ctl, PROTO_BLOB_GET, &request, &reply, err);
    if (rc != SP_OK)
        return rc;
    const struct proto_blob_get_reply *got = reply;
    struct sp_digest actual;
    sp_sha256_of(got->data.data, got->data.length, &actual);
    if (!sp_digest_equal(&actual, digest))
        return sp_fail(err, SP_ECORRUPT, "the coordinator sent a blob with another digest");
    sp_buf_append(to, got->data.data, got->data.length);
    return SP_OK;
}

int ctl_failed(const struct sp_error *err)
{
    return sp_cli_fail("spinctl", err);
}
