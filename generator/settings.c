#include "generator/settings.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

#define AT(field) offsetof(struct gen_settings, field)

static const struct sp_setting table[] = {
    WORKER_SETTINGS(struct gen_settings, worker, ""),
    {"weights", "serve", SP_SET_STR, AT(serve), "", 0, 0, "", "",
     "Address to give chunks of weights on to other workers: tls+tcp://0.0.0.0:7072; empty: none."},
    {"weights", "serve_as", SP_SET_STR, AT(serve_as), "", 0, 0, "", "",
     "The address by which others reach it: tls+tcp://gpu1:7072; empty: serve."},
    {"weights", "serve_name", SP_SET_STR, AT(serve_name), "", 0, 0, "", "",
     "DNS name that others find in this worker's certificate; empty: the host of serve_as."},
    {"weights", "serve_slots", SP_SET_I64, AT(serve_slots), "1", 1, 8, "chunks", "",
     "Chunks given at once; one is best where the network, not latency, is the limit."},
    {"generate", "run", SP_SET_STR, AT(run), "", 0, 0, "", "",
     "Work for this run only; empty: for any run that has work."},
    {"generate", "slots", SP_SET_I64, AT(slots), "32", 1, SP_MAX_SLOTS, "sequences", "",
     "Sequences decoded at once; more is faster until cores are full. Where memory is short a "
     "device's cache holds fewer positions than all can fill; then they are halved."},
    {"generate", "rows_per_step", SP_SET_I64, AT(rows_per_step), "0", 0, 65536, "rows", "",
     "Rows of one pass through the model, prompts included; 0: chosen from the slots."},
    {"generate", "lease_items", SP_SET_I64, AT(lease_items), "0", 0, SP_MAX_LEASE_ITEMS, "items",
     "", "Items asked for at once; 0: as many as slots."},
    {"generate", "submit_items", SP_SET_I64, AT(submit_items), "64", 1, SP_MAX_SUBMIT_RESULTS,
     "results", "", "Most results in one submission."},
    {"generate", "submit_wait", SP_SET_MS, AT(submit_ms), "1 s", 1, 60000, "ms", "",
     "Longest time that a finished result waits for others."},
    {"generate", "stop_timeout", SP_SET_MS, AT(stop_ms), "5 s", 100, 600000, "ms", "",
     "After SIGTERM: time to hand in finished results and to give leases back."},
    {"generate", "report", SP_SET_MS, AT(report_ms), "10 s", 100, 3600000, "ms", "",
     "Time between two lines of progress in the log."},
};

const struct sp_config_spec gen_settings_spec = {
    .title = "spin-generator",
    .settings = table,
    .count = SP_COUNT(table),
    .struct_bytes = sizeof(struct gen_settings),
};

/* An address that stands for all of the machine's tells others nothing. */
static bool is_wildcard(const char *url)
{
    return strstr(url, "//0.0.0.0") != NULL || strstr(url, "//[::]") != NULL ||
           strstr(url, "//*") != NULL;
}

enum sp_err gen_settings_finish(struct gen_settings *settings, struct sp_error *err)
{
    if (settings->serve[0] == '\0')
        return SP_OK;
    if (settings->serve_as[0] == '\0') {
        free(settings->serve_as);
        settings->serve_as = sp_xstrdup(settings->serve);
    }
    if (is_wildcard(settings->serve_as))
        return sp_fail(err, SP_EINVAL,
                       "[weights] serve_as: say by which name others reach %s: "
                       "tls+tcp://gpu1.example.org:7072",
                       settings->serve);
    return SP_OK;
}
