/* The decoder's queue: room, reset, memory, requests and weights that are no good. */
#include "tests/unit/model/decoder_cases.h"

START_TEST(fewer_slots_where_memory_is_short)
{
    const struct model_config config = odd_config(false);
    const struct model_decoder_options asked = {.slots = 21, .queue = 21, .max_positions = 64};
    struct model_decoder_options o = asked;
    size_t whole, bytes;
    ck_ok(model_decoder_bytes(&config, &asked, &whole, err));
    ck_ok(model_decoder_fit(&config, whole, &o, err));
    ck_assert_int_eq(o.slots, 21); /* it fits as it is */
    ck_ok(model_decoder_fit(&config, whole - 1, &o, err));
    ck_assert_int_eq(o.slots, 11);
    ck_assert_int_eq(o.queue, 11);
    ck_ok(model_decoder_bytes(&config, &o, &bytes, err));
    ck_ok(model_decoder_fit(&config, bytes / 2, &o, err));
    ck_assert_int_lt(o.slots, 11);
    ck_ok(model_decoder_fit(&config, 0, &o, err));
    ck_assert_int_eq(o.slots, 1);
    o = asked;
    o.max_positions = config.max_positions + 1;
    ck_fails(SP_EINVAL, "positions", model_decoder_fit(&config, whole, &o, err));
}
END_TEST

START_TEST(queue_and_reset)
{
    struct model *m = new_model(false);
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = 2, .queue = 1};
    struct model_decoder_result result;
    struct ids ids;
    bool idle = false;
    size_t bytes = 0;
    ck_ok(model_decoder_bytes(model_get_config(m), &o, &bytes, err));
    ck_assert_uint_gt(bytes, 100000);
    ck_ok(model_decoder_new(m, &o, &d, err));
    model_free(m); /* the decoder has its own copy */
    struct model_decoder_request r = request(3, &ids);
    for (int round = 0; round < 3; round++) {
        ck_assert_int_eq(model_decoder_room(d), 3);
        for (int i = 0; i < 3; i++)
            ck_ok(model_decoder_submit(d, &r, err));
        ck_fails(SP_EUNAVAIL, "places", model_decoder_submit(d, &r, err));
        if (round == 1) {
            ck_ok(model_decoder_step(d, &idle, err));
            model_decoder_reset(d);
            continue;
        }
        for (idle = false; !idle;)
            ck_ok(model_decoder_step(d, &idle, err));
        ck_assert_int_eq(model_decoder_room(d), 0);
        for (int i = 0; i < 3; i++)
            ck_assert(model_decoder_take_result(d, &result));
        ck_assert_int_eq(model_decoder_room(d), 3);
        ck_assert(!model_decoder_take_result(d, &result));
    }
    model_decoder_free(d);
}
END_TEST

START_TEST(shows_what_was_sampled_so_far)
{
    struct model *m = new_model(false);
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = 1, .queue = 1};
    struct model_decoder_result result;
    struct ids ids;
    const int32_t *partial = NULL;
    int32_t seen[12], n;
    bool idle = false;
    ck_ok(model_decoder_new(m, &o, &d, err));
    struct model_decoder_request r = request(3, &ids);
    memset(r.answers, 0, sizeof(r.answers));
    r.n_eos = 0;
    r.max_new_tokens = 12;
    ck_ok(model_decoder_submit(d, &r, err));
    ck_assert_int_eq(model_decoder_partial(d, r.user, &partial), 0); /* waits for its slot */
    for (int32_t step = 1; step < 12; step++) {
        ck_ok(model_decoder_step(d, &idle, err));
        n = model_decoder_partial(d, r.user, &partial);
        ck_assert_int_eq(n, step);
        seen[n - 1] = partial[n - 1];
        ck_assert_int_eq(model_decoder_partial(d, &o, &partial), 0);
    }
    ck_ok(model_decoder_step(d, &idle, err));
    ck_assert(model_decoder_take_result(d, &result));
    ck_assert_int_eq(result.n_ids, 12);
    ck_assert(memcmp(result.ids, seen, 11 * sizeof(int32_t)) == 0);
    ck_assert_int_eq(model_decoder_partial(d, r.user, &partial), 0);
    model_decoder_free(d);
    model_free(m);
}
END_TEST

START_TEST(bad_requests_and_options_are_refused)
{
    struct model *m = new_model(false);
    struct model_decoder *d = NULL, *none = NULL;
    struct model_decoder_options o = {.slots = 2, .max_positions = 64};
    struct ids ids;
    struct model_decoder_request r;
    ck_ok(model_decoder_new(m, &o, &d, err));
#define REFUSED(code, part, change)                                                                \
    r = request(0, &ids);                                                                          \
    change;                                                                                        \
    ck_fails(code, part, model_decoder_submit(d, &r, err))
    REFUSED(SP_EINVAL, "empty", r.n_prompt = 0);
    REFUSED(SP_EINVAL, "vocabulary", ids.prompt[0] = 53);
    REFUSED(SP_EINVAL, "vocabulary", ids.prompt[0] = -1);
    REFUSED(SP_EINVAL, "vocabulary", ids.answers[1][0] = 1000);
    REFUSED(SP_EINVAL, "answer of", r.n_answers[1] = -3);
    REFUSED(SP_ELIMIT, "exceed 64", r.max_new_tokens = 64);
    REFUSED(SP_ELIMIT, "exceed 64", r.max_new_tokens = INT32_MAX);
    REFUSED(SP_ELIMIT, "exceed 64", r.n_answers[1] = INT32_MAX);
    REFUSED(SP_EINVAL, "max_new_tokens", r.max_new_tokens = 0);
    REFUSED(SP_EINVAL, "temperature", r.params.temperature = -1);
    REFUSED(SP_EINVAL, "temperature", r.params.temperature = NAN);
    REFUSED(SP_EINVAL, "top_k", r.params.top_k = -1);
    REFUSED(SP_EINVAL, "top_p", r.params.top_p = 0);
    REFUSED(SP_EINVAL, "top_p", r.params.top_p = 1.5f);
    REFUSED(SP_EINVAL, "end tokens", r.n_eos = MODEL_MAX_EOS + 1);
    ck_assert_int_eq(model_decoder_room(d), 2);
#undef REFUSED
#define REFUSED(part, ...)                                                                         \
    o = (struct model_decoder_options){__VA_ARGS__};                                               \
    ck_assert_int_ne(model_decoder_new(m, &o, &none, NULL), SP_OK);                                \
    ck_fails(model_decoder_new(m, &o, &none, NULL), part, model_decoder_new(m, &o, &none, err))
    REFUSED("slots", .slots = 0);
    REFUSED("slots", .slots = 100000);
    REFUSED("queue", .slots = 1, .queue = -1);
    REFUSED("positions", .slots = 1, .max_positions = 97);
    REFUSED("rows a step", .slots = 4, .rows_per_step = 3);
    REFUSED("f32 or bf16", .slots = 4, .cache = TN_F16);
    REFUSED("with weights in bf16", .slots = 4, .activations = TN_BF16);
    ck_assert_ptr_null(none);
    model_decoder_free(d);
    model_free(m);
}
END_TEST

START_TEST(broken_weights_are_noticed)
{
    struct model *m = new_model(false);
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = 2};
    struct ids ids;
    bool idle = false;
    size_t n;
    const float nan = NAN;
    float *w = (float *)model_params(m, &n) +
               model_find_tensor(m, "model.layers.1.mlp.down_proj.weight")->offset + 7;
    cpu->ops->upload(cpu, w, &nan, sizeof(nan)); /* it may be a device's memory */
    ck_ok(model_decoder_new(m, &o, &d, err));
    struct model_decoder_request r = request(0, &ids);
    ck_ok(model_decoder_submit(d, &r, err));
    ck_fails(SP_ENUMERIC, "not finite", model_decoder_step(d, &idle, err));
    ck_fails(SP_ENUMERIC, "not finite", model_decoder_step(d, &idle, err));
    model_decoder_reset(d);
    ck_ok(model_decoder_step(d, &idle, err));
    ck_assert(idle);
    model_decoder_free(d);
    model_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("decoder_queue");
    TCase *t = tcase_create("decoder_queue");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, fewer_slots_where_memory_is_short);
    tcase_add_test(t, queue_and_reset);
    tcase_add_test(t, shows_what_was_sampled_so_far);
    tcase_add_test(t, bad_requests_and_options_are_refused);
    tcase_add_test(t, broken_weights_are_noticed);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
