/* export: a checkpoint from the coordinator's blobs to a directory. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/checkpoint/manifest.h"
#include "common/checkpoint/materialise.h"
#include "coordinator/spinctl/spinctl.h"

struct source {
    struct ctl *ctl;
    struct sp_progress *progress;
};

static enum sp_err fetch(void *context, const struct sp_digest *digest, uint32_t bytes, uint8_t *to,
                         struct sp_error *err)
{
    struct source *source = context;
    struct sp_buf chunk = SP_BUF_INIT;
    enum sp_err rc = ctl_blob(source->ctl, digest, &chunk, err);
    if (rc == SP_OK && chunk.length != bytes)
        rc = sp_fail(err, SP_ECORRUPT, "a chunk has %zu bytes, expected %u", chunk.length, bytes);
    if (rc == SP_OK)
        memcpy(to, chunk.data, bytes);
    sp_buf_deinit(&chunk);
    return rc;
}

static bool show(void *context, uint64_t done, uint64_t total)
{
    struct source *source = context;
    sp_progress_set_total(source->progress, total);
    sp_progress_set(source->progress, done);
    return true;
}

json_t *ctl_describe_checkpoint(const char *name)
{
    const char *mark = strrchr(name, '@');
    if (!mark)
        mark = strrchr(name, ':');
    size_t hex = strspn(name, "0123456789abcdef");
    if (mark && (isdigit((unsigned char)mark[1]) || strcmp(mark + 1, "base") == 0))
        return json_pack("{s:s%, s:I}", "run", name, (size_t)(mark - name), "iteration",
                         isdigit((unsigned char)mark[1]) ? (json_int_t)strtoll(mark + 1, NULL, 10)
                                                         : (json_int_t)-1);
    if (name[hex] == '\0' && hex >= 8)
        return json_pack("{s:s}", "digest", name);
    return json_pack("{s:s}", "run", name);
}

static enum sp_err get_manifest(struct ctl *ctl, const json_t *found, struct ckpt_manifest *ret,
                                struct sp_error *err)
{
    struct sp_digest sha256, digest;
    struct sp_buf text = SP_BUF_INIT;
    enum sp_err rc = sp_digest_parse(ctl_string(found, "manifest", ""), &sha256, err);
    if (rc == SP_OK)
        rc = sp_digest_parse(ctl_string(found, "digest", ""), &digest, err);
    if (rc == SP_OK)
        rc = ctl_blob(ctl, &sha256, &text, err);
    if (rc == SP_OK)
        rc = ckpt_manifest_parse(text.data, text.length, ret, err);
    if (rc == SP_OK && !sp_digest_equal(&ret->digest, &digest))
        rc = sp_fail(err, SP_ECORRUPT, "the manifest is another checkpoint's");
    sp_buf_deinit(&text);
    return rc;
}

int ctl_export(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *args = ctl_describe_checkpoint(ctl->args[0]), *found = NULL;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct source source = {.ctl = ctl};
    char hex[SP_DIGEST_HEX] = "";
    char *run = sp_xstrdup(ctl_string(args, "run", ""));
    if (!json_object_get(args, "iteration"))
        json_object_set_new(args, "best", json_true()); /* of no meaning with a digest */
    enum sp_err rc = ctl_admin(ctl, "checkpoint", run, args, &found, &err);
    if (rc == SP_OK && ctl_integer(found, "dropped_ms", 0) != 0)
        rc = sp_fail(&err, SP_ENOTFOUND,
                     "checkpoint %.12s was let go of: `spinctl gc` keeps the "
                     "newest and those that `spinctl pin` names",
                     ctl_string(found, "digest", ""));
    if (rc == SP_OK)
        rc = get_manifest(ctl, found, &manifest, &err);
    if (rc == SP_OK) {
        source.progress = sp_progress_new("export", manifest.bytes, "bytes");
        rc = ckpt_materialise(&manifest, ctl->args[1], fetch, &source, show, &source, &err);
        sp_progress_free(source.progress);
        sp_digest_hex(&manifest.digest, hex);
    }
    const json_t *provenance = json_object_get(found, "provenance");
    if (rc == SP_OK && json_is_object(provenance)) {
        char *text = json_dumps(provenance, JSON_INDENT(2) | JSON_SORT_KEYS);
        char *path = sp_path_join(ctl->args[1], "provenance.json");
        rc = sp_write_file_durable(path, text, strlen(text), 0644, &err);
        free(text);
        free(path);
    }
    if (rc == SP_OK && ctl->json) {
        json_object_set_new(found, "directory", json_string(ctl->args[1]));
        json_object_set_new(found, "bytes", json_integer((json_int_t)manifest.bytes));
        ctl_print_json(found);
    } else if (rc == SP_OK && !ctl->quiet)
        printf("%s  %s\n", hex, ctl->args[1]);
    ckpt_manifest_deinit(&manifest);
    json_decref(found);
    free(run);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}
