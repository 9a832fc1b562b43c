/* spin-generator: answers prompts and scores answers for a coordinator. */
#include <stdio.h>

#include "common/base/daemon.h"
#include "common/base/log.h"
#include "generator/generator.h"

static const struct worker_program program = {
    .name = "spin-generator",
    .doc = "Samples answers and computes log-probabilities for the runs of a spin-coordinator. It "
           "keeps nothing that matters: it can be killed and started at any time.",
    .spec = &gen_settings_spec,
};

static void on_stop(void *context)
{
    gen_stop(context, SP_OK);
}

static enum sp_err run(const struct gen_settings *settings, struct sp_error *err)
{
    struct gen gen;
    struct tn_backend *backend = NULL;
    gen_init(&gen, settings);
    struct sp_daemon_hooks hooks = {.on_stop = on_stop, .context = &gen};
    sp_daemon_init(&hooks);
    struct tn_backend_options options = {.threads = (int32_t)settings->worker.threads,
                                         .module_path = settings->worker.module_path,
                                         .row_variant = !settings->worker.batch_invariant};
    enum sp_err rc = tn_open(settings->worker.backend, &options, &backend, err);
    if (rc == SP_OK)
        rc = gen_run(&gen, backend, err);
    sp_daemon_end();
    gen_deinit(&gen);
    tn_close(backend);
    return rc;
}

int main(int argc, char **argv)
{
    struct gen_settings settings;
    struct sp_error err = {0};
    enum sp_log_level level;
    enum sp_err rc = worker_parse_args(&program, argc, argv, &settings, &err);
    if (rc == SP_OK)
        rc = worker_settings_finish(&settings.worker, "generator", &err);
    if (rc == SP_OK)
        rc = gen_settings_finish(&settings, &err);
    if (rc == SP_OK)
        rc = sp_log_parse_level(settings.worker.log_level, &level, &err);
    if (rc == SP_OK) {
        sp_log_set_level(level);
        sp_log_set_name(settings.worker.name);
        rc = run(&settings, &err);
    }
    sp_config_deinit(&gen_settings_spec, &settings);
    if (rc != SP_OK && rc != SP_ECANCELED)
        fprintf(stderr, "%s: %s\n", program.name, err.text);
    return rc == SP_ECANCELED ? 0 : sp_err_exit_code(rc);
}
