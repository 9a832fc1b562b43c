#include <math.h>
#include <string.h>

#include "common/model/decoder.h"
#include "generator/generator.h"
#include "tests/unit/check_main.h"

static const int32_t prompt_ids[] = {5, 6, 7};
static const int32_t answer_ids[] = {8, 9};
static const int32_t stop_ids[] = {2, 3};

static struct gen_lease *lease_of(struct proto_work_item item)
{
    item.prompt_ids = (struct proto_ids){.ids = prompt_ids, .count = 3};
    struct proto_lease_reply grant = {
        .lease_id = 4,
        .run = "r",
        .backend = "cpu",
        .iteration = 6,
        .seed = 77,
        .temperature = 0.5f,
        .top_k = 40,
        .top_p = 0.9f,
        .max_new_tokens = 16,
        .stop_ids = {.ids = stop_ids, .count = 2},
        .items = &item,
        .items_count = 1,
    };
    struct gen_lease *lease = NULL;
    struct sp_error err = {0};
    enum sp_err rc = gen_lease_new(&grant, &lease, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    return lease;
}

START_TEST(test_a_sampling_request_has_the_names_of_its_draws)
{
    struct gen_lease *lease = lease_of((struct proto_work_item){
        .kind = PROTO_WORK_SAMPLE,
        .set = PROTO_SET_TRAIN,
        .key_iteration = 5,
        .prompt = 11,
        .sample = 3,
        .answer_a = {.ids = answer_ids, .count = 2},
    });
    struct model_decoder_request request;
    struct sp_error err;
    ck_assert_int_eq(gen_make_request(&lease->tasks[0], 64, &request, &err), SP_OK);
    ck_assert(request.generate);
    ck_assert_int_eq(request.max_new_tokens, 16);
    ck_assert_uint_eq(request.seed, 77);
    ck_assert_uint_eq(request.iteration, 5);
    ck_assert_uint_eq(request.prompt_key, 11);
    ck_assert_uint_eq(request.sample_key, 3);
    ck_assert_int_eq(request.n_eos, 2);
    ck_assert_int_eq(request.eos_ids[1], 3);
    ck_assert_float_eq(request.params.temperature, 0.5f);
    ck_assert_int_eq(request.n_answers[0], 2);
    ck_assert_int_eq(request.answers[0][1], 9);
    ck_assert_ptr_null(request.answers[1]);
    ck_assert_ptr_eq(request.user, &lease->tasks[0]);
    gen_lease_free(lease);
}
END_TEST

START_TEST(test_sets_draw_from_streams_of_their_own)
{
    ck_assert_uint_eq(gen_draw_prompt(PROTO_SET_TRAIN, 7), 7);
    ck_assert_uint_eq(gen_draw_prompt(PROTO_SET_HOLDOUT, 7), 0x80000007u);
    ck_assert_uint_eq(gen_draw_prompt(PROTO_SET_EVAL_SAMPLED, 7), 0x40000007u);
    ck_assert_uint_eq(gen_draw_prompt(PROTO_SET_BASE_SAMPLED, 7), 0x40000007u);
}
END_TEST

START_TEST(test_greedy_items_ignore_the_temperature)
{
    struct gen_lease *lease = lease_of((struct proto_work_item){
        .kind = PROTO_WORK_SAMPLE, .set = PROTO_SET_EVAL_GREEDY, .greedy = true});
    struct model_decoder_request request;
    struct sp_error err;
    ck_assert_int_eq(gen_make_request(&lease->tasks[0], 64, &request, &err), SP_OK);
    ck_assert_float_eq(request.params.temperature, 0.0f);
    ck_assert_int_eq(request.params.top_k, 0);
    gen_lease_free(lease);
}
END_TEST

START_TEST(test_answers_end_with_the_positions_of_the_model)
{
    struct gen_lease *lease =
        lease_of((struct proto_work_item){.kind = PROTO_WORK_SAMPLE, .set = PROTO_SET_TRAIN});
    struct model_decoder_request request;
    struct sp_error err = {0};
    ck_assert_int_eq(gen_make_request(&lease->tasks[0], 10, &request, &err), SP_OK);
    ck_assert_int_eq(request.max_new_tokens, 7);
    ck_assert_int_eq(gen_make_request(&lease->tasks[0], 3, &request, &err), SP_ELIMIT);
    ck_assert_ptr_nonnull(strstr(err.text, "max_sequence_tokens"));
    gen_lease_free(lease);
}
END_TEST

START_TEST(test_a_result_says_what_was_not_scored)
{
    struct gen_lease *lease = lease_of((struct proto_work_item){
        .kind = PROTO_WORK_SAMPLE, .set = PROTO_SET_HOLDOUT, .position = 9, .prompt = 12});
    int32_t ids[] = {4, 2};
    struct model_decoder_result result = {
        .user = &lease->tasks[0],
        .ids = ids,
        .n_ids = 2,
        .finish = MODEL_FINISH_STOP,
        .response = {.logprob = -1.5f, .n = 2},
        .answers = {{.logprob = -2.5f, .n = 3}},
    };
    struct gen_out *out = gen_make_result(&lease->tasks[0], &result);
    ids[0] = 0; /* the decoder reuses its memory */
    ck_assert_int_eq(out->kind, GEN_OUT_RESULT);
    ck_assert_uint_eq(out->lease_id, 4);
    ck_assert_uint_eq(out->iteration, 6);
    ck_assert_str_eq(out->run, "r");
    ck_assert_uint_eq(out->result.position, 9);
    ck_assert_uint_eq(out->result.prompt, 12);
    ck_assert_uint_eq(out->result.ids.count, 2);
    ck_assert_int_eq(out->result.ids.ids[0], 4);
    ck_assert_uint_eq(out->result.finish, PROTO_FINISH_STOP);
    ck_assert_float_eq(out->result.logprob_ids, -1.5f);
    ck_assert_float_eq(out->result.logprob_a, -2.5f);
    ck_assert(isnan(out->result.logprob_b));
    free(out);
    gen_lease_free(lease);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("generator/work");
    TCase *c = tcase_create("work");
    tcase_add_test(c, test_a_sampling_request_has_the_names_of_its_draws);
    tcase_add_test(c, test_sets_draw_from_streams_of_their_own);
    tcase_add_test(c, test_greedy_items_ignore_the_temperature);
    tcase_add_test(c, test_answers_end_with_the_positions_of_the_model);
    tcase_add_test(c, test_a_result_says_what_was_not_scored);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
