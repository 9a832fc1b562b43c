#include "common/worker/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/daemon_cli.h"
#include "common/base/fs.h"
#include "common/base/mem.h"

#define TOKEN_FILE_BYTES 4096
#define HOST_NAME_BYTES 256

static void set_string(char **slot, char *owned)
{
    free(*slot);
    *slot = owned;
}

enum sp_err worker_settings_finish(struct worker_settings *settings, const char *role,
                                   struct sp_error *err)
{
    if (settings->state_dir[0] == '\0')
        return sp_fail(err, SP_EINVAL, "[worker] state_dir: empty");
    if (settings->url[0] == '\0')
        set_string(&settings->url, sp_xprintf("ipc://%s/coordinator.sock", settings->state_dir));
    if (settings->name[0] == '\0') {
        char host[HOST_NAME_BYTES] = "";
        gethostname(host, sizeof(host) - 1);
        set_string(&settings->name, sp_xprintf("%s-%s", role, host));
    }
    if (settings->cache_dir[0] == '\0')
        set_string(&settings->cache_dir, sp_path_join(settings->state_dir, "cache"));
    if (settings->token_file[0] == '\0')
        set_string(&settings->token_file, sp_xprintf("%s/%s.token", settings->state_dir, role));
    if (settings->backoff_max_ms < settings->backoff_min_ms)
        return sp_fail(err, SP_EINVAL, "[coordinator] backoff_max: below backoff_min");
    if (strncmp(settings->url, "tls+tcp://", 10) == 0 && settings->tls_ca[0] == '\0')
        return sp_fail(err, SP_EINVAL,
                       "[coordinator] tls_ca: %s needs the authority's certificate (and tls_cert, "
                       "tls_server_name)",
                       settings->url);
    return SP_OK;
}

enum sp_err worker_read_token(const struct worker_settings *settings, char **ret,
                              struct sp_error *err)
{
    const char *path = settings->token_file;
    char *text = NULL;
    size_t length = 0;
    enum sp_err rc = sp_read_secret(path, TOKEN_FILE_BYTES, &text, &length, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "token (`spinctl token create --role ROLE` prints one)");
    text[strcspn(text, "\r\n \t")] = '\0';
    if (strchr(text, '.') == NULL) {
        free(text);
        return sp_fail(err, SP_EFORMAT,
                       "token: %s: no token (id.secret) on its first line: `spinctl token "
                       "create --role ROLE` prints one",
                       path);
    }
    *ret = text;
    return SP_OK;
}

static const struct sp_cli_alias aliases[] = {
    {"state-dir", "DIR", "worker.state_dir"},
    {"coordinator", "URL", "coordinator.url"},
    {"token-file", "FILE", "coordinator.token_file"},
    {"name", "NAME", "worker.name"},
};

enum sp_err worker_parse_args(const struct worker_program *program, int argc, char **argv,
                              void *values, struct sp_error *err)
{
    struct sp_daemon_cli cli = {
        .doc = program->doc,
        .example = "compute.threads=2",
        .spec = program->spec,
        .aliases = aliases,
        .alias_count = SP_COUNT(aliases),
    };
    return sp_daemon_cli_parse(&cli, argc, argv, values, NULL, err);
}
