/* Which checkpoints are kept. */
#include <stdio.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/spinctl.h"

static int set_pin(struct ctl *ctl, const char *verb)
{
    struct sp_error err = {0};
    json_t *args = ctl_describe_checkpoint(ctl->args[0]), *found = NULL, *reply = NULL;
    char *run = sp_xstrdup(ctl_string(args, "run", ""));
    enum sp_err rc = ctl_admin(ctl, "checkpoint", run, args, &found, &err);
    free(run);
    if (rc == SP_OK)
        rc = ctl_admin(ctl, verb, ctl_string(found, "run", ""),
                       json_pack("{s:s}", "digest", ctl_string(found, "digest", "")), &reply, &err);
    if (rc == SP_OK && ctl->json)
        ctl_print_json(reply);
    else if (rc == SP_OK && !ctl->quiet)
        printf("%.12s of run %s is %s\n", ctl_string(reply, "digest", ""),
               ctl_string(reply, "run", ""),
               json_is_true(json_object_get(reply, "pinned")) ? "pinned" : "not pinned any more");
    json_decref(found);
    json_decref(reply);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}

int ctl_pin(void *context)
{
    return set_pin(context, "pin");
}

int ctl_unpin(void *context)
{
    return set_pin(context, "unpin");
}

int ctl_gc(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    ctl->patience_ms = CTL_LONG_MS;
    if (ctl_admin(ctl, "gc", "", json_pack("{s:b}", "dry_run", ctl->dry_run), &reply, &err) !=
        SP_OK)
        return ctl_failed(&err);
    if (ctl->json) {
        ctl_print_json(reply);
    } else if (!ctl->quiet) {
        char kept[32], free_[32], gone[32], grace[32];
        sp_format_bytes((uint64_t)ctl_integer(reply, "bytes_kept", 0), kept, sizeof(kept));
        sp_format_bytes((uint64_t)ctl_integer(reply, "bytes_unreferenced", 0), free_,
                        sizeof(free_));
        sp_format_bytes((uint64_t)ctl_integer(reply, "bytes_deleted", 0), gone, sizeof(gone));
        sp_format_duration(ctl_integer(reply, "grace_ms", 0), grace, sizeof(grace));
        printf("%lld checkpoints %s let go of; %lld blobs (%s) are kept\n",
               (long long)ctl_integer(reply, "checkpoints_dropped", 0),
               ctl->dry_run ? "would be" : "are",
               (long long)ctl_integer(reply, "blobs_kept", 0), kept);
        printf("nothing refers to %lld blobs (%s): each is deleted %s after it was found so, "
               "%lld (%s) just now\n",
               (long long)ctl_integer(reply, "blobs_unreferenced", 0), free_, grace,
               (long long)ctl_integer(reply, "blobs_deleted", 0), gone);
    }
    json_decref(reply);
    return 0;
}
