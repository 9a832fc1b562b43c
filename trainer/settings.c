#include "trainer/settings.h"

#include "common/base/mem.h"

#define AT(field) offsetof(struct train_settings, field)

static const struct sp_setting table[] = {
    WORKER_SETTINGS(struct train_settings, worker, ""),
    {"train", "prefetch", SP_SET_I64, AT(prefetch_batches), "2", 1, 64, "batches", "",
     "Batches fetched ahead of the step in work."},
    {"train", "report", SP_SET_MS, AT(report_ms), "1 s", 1, 60000, "ms", "",
     "Longest time that the metrics of a step wait for those of others."},
    {"train", "stop_timeout", SP_SET_MS, AT(stop_ms), "5 s", 100, 600000, "ms", "",
     "After SIGTERM, when the snapshot is written: time to give the lease back."},
    {"train", "score_pairs", SP_SET_I64, AT(score_pairs), "128", 1, SP_MAX_SUBMIT_RESULTS, "pairs",
     "", "Pairs scored and handed in at once in runs with score_by = trainer."},
};

const struct sp_config_spec train_settings_spec = {
    .title = "spin-trainer",
    .settings = table,
    .count = SP_COUNT(table),
    .struct_bytes = sizeof(struct train_settings),
};
