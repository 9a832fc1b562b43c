/* spin-trainer: trains the iterations of a coordinator's runs and publishes their checkpoints. */
#include <stdio.h>

#include "common/base/daemon.h"
#include "common/base/log.h"
#include "trainer/trainer.h"

static const struct worker_program program = {
    .name = "spin-trainer",
    .doc = "Trains the iterations of the runs of a spin-coordinator, one at a time, and publishes "
           "their checkpoints. Killed at any time, it goes on from its last snapshot to the same "
           "bits.",
    .spec = &train_settings_spec,
};

static void on_stop(void *context)
{
    trainer_stop(context);
}

static enum sp_err run(const struct train_settings *settings, struct sp_error *err)
{
    struct trainer trainer;
    struct tn_backend *backend = NULL;
    trainer_init(&trainer, settings);
    struct sp_daemon_hooks hooks = {.on_stop = on_stop, .context = &trainer};
    sp_daemon_init(&hooks);
    struct tn_backend_options options = {.threads = (int32_t)settings->worker.threads,
                                         .module_path = settings->worker.module_path,
                                         .row_variant = !settings->worker.batch_invariant};
    enum sp_err rc = tn_open(settings->worker.backend, &options, &backend, err);
    if (rc == SP_OK)
        rc = trainer_run(&trainer, backend, err);
    sp_daemon_end();
    trainer_deinit(&trainer);
    tn_close(backend);
    return rc;
}

int main(int argc, char **argv)
{
    struct train_settings settings;
    struct sp_error err = {0};
    enum sp_log_level level;
    enum sp_err rc = worker_parse_args(&program, argc, argv, &settings, &err);
    if (rc == SP_OK)
        rc = worker_settings_finish(&settings.worker, "trainer", &err);
    if (rc == SP_OK)
        rc = sp_log_parse_level(settings.worker.log_level, &level, &err);
    if (rc == SP_OK) {
        sp_log_set_level(level);
        sp_log_set_name(settings.worker.name);
        rc = run(&settings, &err);
    }
    sp_config_deinit(&train_settings_spec, &settings);
    if (rc != SP_OK && rc != SP_ECANCELED)
        fprintf(stderr, "%s: %s\n", program.name, err.text);
    return rc == SP_ECANCELED ? 0 : sp_err_exit_code(rc);
}
