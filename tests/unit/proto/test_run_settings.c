#include "proto/run_settings.h"

#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

#define MINIMAL "[run]\nname = letters\n[data]\ntrain = train.jsonl\n[model]\nbase = models/tiny\n"

static enum sp_err parse_and_check(const char *text, struct run_settings *s, struct sp_error *err)
{
    enum sp_err rc = sp_config_parse(&run_settings_spec, text, strlen(text), "run.ini", s, err);
    return rc == SP_OK ? run_settings_check(s, err) : rc;
}

START_TEST(the_defaults_are_the_papers)
{
    struct run_settings s;
    struct sp_error err = {0};
    sp_config_init(&run_settings_spec, &s);
    ck_assert_int_eq(run_settings_check(&s, &err), SP_EINVAL); /* no name, data, model yet */
    enum sp_err rc = parse_and_check(MINIMAL, &s, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_str_eq(s.name, "letters");
    ck_assert_int_eq(s.mode, RUN_MODE_SPIN);
    ck_assert_int_eq(s.loss, RUN_LOSS_LOGISTIC);
    ck_assert_int_eq(s.optimizer, RUN_OPT_RMSPROP);
    ck_assert_int_eq(s.batch_pairs, 64);
    ck_assert_int_eq(s.checkpoint_dtype, RUN_DTYPE_F32);
    static const double beta[] = {0.1, 0.1, 0.1, 5, 5};
    static const double rate[] = {5e-7, 5e-7, 1e-7, 1e-7, 1e-7};
    for (int i = 0; i < 5; i++) {
        ck_assert(sp_list_at(&s.beta, i) == beta[i]);
        ck_assert(sp_list_at(&s.learning_rate, i) == rate[i]);
        ck_assert(sp_list_at(&s.epochs, i) == 2.0);
    }
    sp_config_deinit(&run_settings_spec, &s);
}
END_TEST

static const struct {
    const char *text, *expected;
} wrong[] = {
    {"[data]\ntrain = t\n[model]\nbase = b\n", "[run] name: \"\": give 1 to 64 letters"},
    {"[run]\nname = a b\n", "[run] name: \"a b\": give"},
    {"[run]\nname = ../up\n", "[run] name: \"../up\": give"},
    {"[run]\nname = -x\n", "[run] name: \"-x\": give"},
    {"[run]\nname = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
     "give 1 to 64 letters"},
    {"[run]\nname = x\n[model]\nbase = b\n", "[data] train: no file given"},
    {"[run]\nname = x\n[data]\ntrain = t\n", "[model] base: no directory given"},
    {MINIMAL "[data]\nmax_prompt_tokens = 2048\n", "leaves no room for an answer"},
    {MINIMAL "[train]\nepochs = 2, 1.5\n", "[train] epochs: 1.5: passes are whole"},
    {MINIMAL "[train]\neps = 0\n", "[train] eps: 0: "},
    {MINIMAL "[train]\neps = 1e-50\n", "which is 0 in fp32"},
    {MINIMAL "[generate]\nkv = bf16\n", "set [run] score_by = trainer"},
    {MINIMAL "[generate]\nweights = bf16\n", "set [run] score_by = trainer"},
    {MINIMAL "[generate]\nweights = bf16\nactivations = bf16\n", "set [run] score_by = trainer"},
    {MINIMAL "[run]\nscore_by = trainer\n[generate]\nactivations = bf16\n",
     "goes with weights = bf16"},
    {MINIMAL "[train]\nweights = bf16\n", "[train] weights: bf16 needs [run] backend = cuda"},
    {MINIMAL "[run]\nbackend = cuda-fp32\n[train]\nweights = bf16\n", "needs [run] backend = cuda"},
    {MINIMAL "[run]\nbackend = cuda\n[train]\nweights = bf16\n", "set [run] score_by = trainer"},
    /* given answers have references, too */
    {MINIMAL "[run]\nmode = dpo\n[generate]\nkv = bf16\n", "set [run] score_by = trainer"},
    {MINIMAL "[run]\nmode = dpo\n[generate]\nweights = bf16\n", "set [run] score_by = trainer"},
    {MINIMAL "[run]\nmode = dpo\nbackend = cuda\n[train]\nweights = bf16\n",
     "set [run] score_by = trainer"},
    {MINIMAL "[train]\noptimizer_offload = true\n", "needs [run] backend = cuda"},
    {MINIMAL "[train]\noptimizer_state = 16bit\n", "optimizer_state"},
    {MINIMAL "[run]\nmode = sft\n[train]\norder = gap\n", "mode = sft does not make"},
    {MINIMAL "[run]\nscore_by = trainer\n[train]\norder = gap\n", "gap needs scores before"},
    {MINIMAL "[data]\nformat = messages\nprompt = q\n", "messages has its own names of fields"},
    {MINIMAL "[data]\ngenerated_1 = f\n", "only with [run] compat = uclaml"},
    {MINIMAL "[run]\ncompat = uclaml\n", "it needs mode = spin and score_by = trainer"},
    {MINIMAL "[run]\ncompat = uclaml\nscore_by = trainer\n", "compat = uclaml has Zephyr's"},
    {MINIMAL "[run]\ncompat = uclaml\nscore_by = trainer\n[data]\ntemplate = zephyr\n"
             "[generate]\nsamples_per_prompt = 2\n",
     "has one answer a prompt"},
    {"[run]\nmode = rlhf\n", "run.ini:2: [run] mode: \"rlhf\" is not one of spin, sft, dpo"},
    {"[train]\nlearning_rat = 1\n", "run.ini:2: [train] learning_rat: unknown setting; did you "
                                    "mean \"learning_rate\"?"},
    {"[train]\nbeta = 0\n", "[train] beta: 0 is out of range"},
    {"[train]\nepochs = 0.5\n", "[train] epochs: 0.5 is out of range, expected 1 to 1000"},
    {"[train]\nbatch_pairs = 0\n", "[train] batch_pairs: 0 is out of range, expected 1 to 65536 "
                                   "pairs"},
    {"[generate]\ntop_p = 0\n", "[generate] top_p: 0 is out of range"},
    {"[train]\nmemory_budget = lots\n", "[train] memory_budget: \"lots\" is not a size such as"},
    {"[run]\nseed = 9007199254740993\n", "is out of range, expected 0 to 9007199254740991"},
    {"[run]\niterations = 65\n", "[run] iterations: 65 is out of range, expected 1 to 64"},
};

START_TEST(wrong_settings_are_explained)
{
    struct run_settings s;
    struct sp_error err = {0};
    sp_config_init(&run_settings_spec, &s);
    ck_assert_int_ne(parse_and_check(wrong[_i].text, &s, &err), SP_OK);
    ck_assert_msg(strstr(err.text, wrong[_i].expected) != NULL, "%s", err.text);
    sp_config_deinit(&run_settings_spec, &s);
}
END_TEST

START_TEST(frozen_settings_thaw_to_the_same_bytes)
{
    struct run_settings s, t;
    struct sp_error err = {0};
    sp_config_init(&run_settings_spec, &s);
    sp_config_init(&run_settings_spec, &t);
    enum sp_err rc = parse_and_check(
        MINIMAL "[train]\nlearning_rate = 3e-7, 1.1e-7\nmemory_budget = 3 GiB\nloss = ipo\n", &s,
        &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    json_t *object = sp_config_to_json(&run_settings_spec, &s), *parsed = NULL;
    char *frozen = sp_json_canonical(object);
    ck_assert_int_eq(sp_json_parse(frozen, strlen(frozen), "settings", &parsed, &err), SP_OK);
    rc = sp_config_from_json(&run_settings_spec, parsed, &t, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    json_t *again = sp_config_to_json(&run_settings_spec, &t);
    char *same = sp_json_canonical(again);
    ck_assert_str_eq(frozen, same);
    free(frozen);
    free(same);
    json_decref(object);
    json_decref(parsed);
    json_decref(again);
    sp_config_deinit(&run_settings_spec, &s);
    sp_config_deinit(&run_settings_spec, &t);
}
END_TEST

START_TEST(every_setting_is_explained)
{
    for (size_t i = 0; i < run_settings_spec.count; i++) {
        const struct sp_setting *s = &run_settings_spec.settings[i];
        ck_assert_msg(*s->help != 0, "[%s] %s has no help", s->section, s->name);
        ck_assert_uint_lt(s->offset, sizeof(struct run_settings));
        for (size_t k = 0; k < i; k++) {
            const struct sp_setting *o = &run_settings_spec.settings[k];
            ck_assert_msg(o->offset != s->offset, "%s and %s share a field", s->name, o->name);
            ck_assert(strcmp(o->name, s->name) != 0 || strcmp(o->section, s->section) != 0);
        }
    }
}
END_TEST

/* uclaml's defaults are a run that is allowed, and stay apart from those of the table. */
START_TEST(uclaml_has_its_defaults)
{
    struct run_settings s;
    struct sp_error err = {0};
    sp_config_init(&run_settings_spec, &s);
    run_settings_use_compat(&s, RUN_COMPAT_NONE);
    ck_assert_int_eq(s.compat, RUN_COMPAT_NONE);
    run_settings_use_compat(&s, RUN_COMPAT_UCLAML);
    ck_assert_int_eq(parse_and_check(MINIMAL, &s, &err), SP_OK);
    ck_assert_int_eq(s.compat, RUN_COMPAT_UCLAML);
    ck_assert_int_eq(s.score_by, RUN_SCORE_BY_TRAINER);
    ck_assert_int_eq(s.max_new_tokens, 256);
    ck_assert_double_eq(sp_list_at(&s.learning_rate, 1), 5e-7);
    ck_assert_double_eq(sp_list_at(&s.learning_rate, 2), 1e-7);
    ck_assert_double_eq(sp_list_at(&s.beta, 2), 0.1);
    ck_assert_double_eq(sp_list_at(&s.beta, 3), 5);
    ck_assert_double_eq(sp_list_at(&s.epochs, 0), 6);
    sp_config_deinit(&run_settings_spec, &s);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("run_settings");
    TCase *t = tcase_create("all");
    tcase_add_test(t, the_defaults_are_the_papers);
    tcase_add_loop_test(t, wrong_settings_are_explained, 0, (int)SP_COUNT(wrong));
    tcase_add_test(t, frozen_settings_thaw_to_the_same_bytes);
    tcase_add_test(t, every_setting_is_explained);
    tcase_add_test(t, uclaml_has_its_defaults);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
