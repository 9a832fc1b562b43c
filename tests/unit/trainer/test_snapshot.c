#include "trainer/snapshot.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/tensor/backend.h"
#include "tests/unit/check_main.h"

#define N_PARAMS 37
#define N_STATE 41

static char dir[64];
static float params[N_PARAMS], state[N_STATE];

static void setup(void)
{
    snprintf(dir, sizeof(dir), "/tmp/spin-snapshot-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    for (int i = 0; i < N_PARAMS; i++)
        params[i] = 0.1f * (float)i;
    for (int i = 0; i < N_STATE; i++)
        state[i] = -1e-9f * (float)i;
}

static void teardown(void)
{
    struct sp_error err;
    ck_assert_int_eq(sp_remove_tree(dir, &err), SP_OK);
}

static struct train_snapshot example(uint64_t step)
{
    static struct proto_step_metrics unreported[2] = {{.step = 8, .loss = 0.5}, {.step = 9}};
    struct train_snapshot s = {
        .identity = {.run = "r", .iteration = 2, .attempt = 1, .numerics_class = "cpu r1"},
        .fencing_epoch = 5,
        .step = step,
        .updates = (int64_t)step - 1,
        .totals = {.tokens = 1000, .loss_first = 0.69},
        .unreported = unreported,
        .unreported_count = 2,
        .params = params,
        .state = state,
        .n_params = N_PARAMS,
        .state_bytes = sizeof(state),
    };
    memset(s.identity.plan.bytes, 7, SP_DIGEST_BYTES);
    memset(s.chain.bytes, 9, SP_DIGEST_BYTES);
    return s;
}

static void write_example(uint64_t step)
{
    struct train_snapshot s = example(step);
    struct sp_error err = {0};
    enum sp_err rc = train_snapshot_write(dir, &s, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
}

static const struct train_rewind no_rewind = {0};

static char *path_of(const char *suffix)
{
    return sp_xprintf("%s/r.%s", dir, suffix);
}

/* Changes the byte at an offset (negative: from the end). */
static void damage(const char *suffix, long offset)
{
    char *path = path_of(suffix);
    FILE *file = fopen(path, "r+");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fseek(file, offset, offset < 0 ? SEEK_END : SEEK_SET), 0);
    int c = fgetc(file);
    ck_assert_int_eq(fseek(file, -1, SEEK_CUR), 0);
    fputc(c ^ 0x10, file);
    fclose(file);
    free(path);
}

START_TEST(test_what_is_written_comes_back)
{
    struct train_snapshot_file file;
    struct train_snapshot want = example(10);
    struct sp_error err = {0};
    write_example(10);
    ck_assert_int_eq(train_snapshot_find(dir, &want.identity, &no_rewind, &file, &err), SP_OK);
    const struct train_snapshot *s = &file.snapshot;
    ck_assert_ptr_null(train_identity_differs(&s->identity, &want.identity));
    ck_assert_uint_eq(s->step, 10);
    ck_assert_int_eq(s->updates, 9);
    ck_assert_uint_eq(s->fencing_epoch, 5);
    ck_assert(sp_digest_equal(&s->chain, &want.chain));
    ck_assert_uint_eq(s->totals.tokens, 1000);
    ck_assert(s->totals.loss_first == 0.69);
    ck_assert_uint_eq(s->unreported_count, 2);
    ck_assert_uint_eq(s->unreported[1].step, 9);
    ck_assert_uint_eq(s->n_params, N_PARAMS);
    ck_assert_int_eq(memcmp(s->params, params, sizeof(params)), 0);
    ck_assert_uint_eq(s->state_bytes, sizeof(state));
    ck_assert_int_eq(memcmp(s->state, state, sizeof(state)), 0);
    train_snapshot_close(&file);
}
END_TEST

/* Parameters of 2 bytes, an odd number of them, and a state of codes, in memory of the host that
 * the device works on. */
START_TEST(test_narrow_parameters_and_state)
{
    struct train_snapshot s = example(10);
    struct train_snapshot_file file;
    struct sp_error err = {0};
    ck_assert_msg(tn_open("cuda", NULL, &s.backend, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(tn_store_weights(s.backend, TN_BF16, &err), SP_OK);
    void *device = s.backend->ops->alloc(s.backend, N_PARAMS, sizeof(uint16_t));
    s.state_bytes = tn_state_bytes(TN_STATE_8BIT, N_PARAMS);
    void *codes = s.backend->ops->state_new(s.backend, s.state_bytes, true);
    tn_put(s.backend, device, TN_BF16, params, N_PARAMS);
    memset(codes, 77, s.state_bytes);
    s.params = device;
    s.state = codes;
    s.identity.weights = TN_BF16;
    s.identity.state = TN_STATE_8BIT;
    ck_assert_msg(train_snapshot_write(dir, &s, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(train_snapshot_find(dir, &s.identity, &no_rewind, &file, &err), SP_OK);
    ck_assert_uint_eq(file.snapshot.n_params, N_PARAMS);
    ck_assert_uint_eq(file.snapshot.state_bytes, s.state_bytes);
    for (int i = 0; i < N_PARAMS; i++)
        ck_assert_uint_eq(((const uint16_t *)file.snapshot.params)[i], sp_f32_to_bf16(params[i]));
    ck_assert_int_eq(memcmp(file.snapshot.state, codes, s.state_bytes), 0);
    train_snapshot_close(&file);
    s.backend->ops->state_free(s.backend, codes);
    s.backend->ops->free(s.backend, device);
    tn_close(s.backend);
}
END_TEST

/* Memory of a device, which the host can't touch, in more than one piece */
START_TEST(test_a_backend_s_memory_is_written)
{
    enum { N = (1 << 20) + 5 };
    struct train_snapshot s = example(10);
    struct train_snapshot_file file;
    struct sp_error err = {0};
    float *host = sp_xarray(N, sizeof(*host));
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    ck_assert_msg(tn_open("cuda-fp32", NULL, &s.backend, &err) == SP_OK, "%s", err.text);
    float *device = s.backend->ops->alloc(s.backend, 2 * N, sizeof(*device));
    s.backend->ops->upload(s.backend, device, host, N * sizeof(*device));
    s.params = device;
    s.state = device + N;
    s.n_params = N;
    s.state_bytes = N * sizeof(float);
    ck_assert_msg(train_snapshot_write(dir, &s, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(train_snapshot_find(dir, &s.identity, &no_rewind, &file, &err), SP_OK);
    ck_assert_int_eq(memcmp(file.snapshot.params, host, N * sizeof(*host)), 0);
    memset(host, 0, N * sizeof(*host));
    ck_assert_int_eq(memcmp(file.snapshot.state, host, N * sizeof(*host)), 0);
    train_snapshot_close(&file);
    s.backend->ops->free(s.backend, device);
    tn_close(s.backend);
    free(host);
}
END_TEST

START_TEST(test_the_one_before_stays_for_a_damaged_one)
{
    struct train_snapshot_file file;
    struct train_snapshot want = example(0);
    struct sp_error err = {0};
    write_example(10);
    write_example(20);
    ck_assert_int_eq(train_snapshot_find(dir, &want.identity, &no_rewind, &file, &err), SP_OK);
    ck_assert_uint_eq(file.snapshot.step, 20);
    train_snapshot_close(&file);
    damage("snapshot", -50);
    ck_assert_int_eq(train_snapshot_find(dir, &want.identity, &no_rewind, &file, &err), SP_OK);
    ck_assert_uint_eq(file.snapshot.step, 10);
    train_snapshot_close(&file);
    char *path = path_of("snapshot"); /* power lost between the two renames */
    unlink(path);
    free(path);
    ck_assert_int_eq(train_snapshot_find(dir, &want.identity, &no_rewind, &file, &err), SP_OK);
    ck_assert_uint_eq(file.snapshot.step, 10);
    train_snapshot_close(&file);
    damage("previous", 100);
    ck_assert_int_eq(train_snapshot_find(dir, &want.identity, &no_rewind, &file, &err),
                     SP_ENOTFOUND);
}
END_TEST

START_TEST(test_a_snapshot_of_another_training_is_not_used)
{
    struct train_snapshot_file file;
    struct sp_error err = {0};
    write_example(10);
    for (int i = 0; i < 8; i++) {
        struct train_identity other = example(10).identity;
        switch (i) {
        case 0:
            other.iteration++;
            break;
        case 1:
            other.attempt++;
            break;
        case 2:
            other.plan.bytes[0]++;
            break;
        case 3:
            other.opponent.bytes[31]++;
            break;
        case 4:
            other.settings.bytes[5]++;
            break;
        case 5:
            other.weights = TN_BF16;
            break;
        case 6:
            other.state = TN_STATE_8BIT;
            break;
        default:
            snprintf(other.numerics_class, sizeof(other.numerics_class), "cpu r2");
            break;
        }
        ck_assert_int_eq(train_snapshot_find(dir, &other, &no_rewind, &file, &err), SP_ENOTFOUND);
    }
}
END_TEST

/* Every single byte counts: the digest at the end covers all of them. */
START_TEST(test_damage_anywhere_is_found)
{
    struct train_snapshot_file file;
    struct sp_error err = {0};
    char *path = path_of("snapshot");
    write_example(10);
    ck_assert_int_eq(train_snapshot_open(path, &file, &err), SP_OK);
    long length = (long)file.map.length;
    train_snapshot_close(&file);
    for (long at = 0; at < length; at += 13) {
        damage("snapshot", at);
        ck_assert_int_ne(train_snapshot_open(path, &file, &err), SP_OK);
        ck_assert_ptr_nonnull(strstr(err.text, path));
        damage("snapshot", at);
    }
    ck_assert_int_eq(train_snapshot_open(path, &file, &err), SP_OK);
    train_snapshot_close(&file);
    for (long cut = 0; cut < length; cut += 101) {
        ck_assert_int_eq(truncate(path, cut), 0);
        ck_assert_int_ne(train_snapshot_open(path, &file, &err), SP_OK);
        write_example(10);
    }
    free(path);
}
END_TEST

/* A file with a good digest at its end and nonsense before it. */
static void write_forged(const char *header, size_t floats)
{
    struct sp_buf out = SP_BUF_INIT;
    struct sp_digest digest;
    struct sp_error err;
    size_t length = strlen(header), padded = (20 + length + 63) / 64 * 64 - 20;
    sp_buf_append(&out, "spin-snapshot 2\n", 16);
    sp_buf_put_u32(&out, (uint32_t)padded);
    sp_buf_append(&out, header, length);
    for (size_t i = length; i < padded; i++)
        sp_buf_putc(&out, ' ');
    for (size_t i = 0; i < floats; i++)
        sp_buf_put_u32(&out, 0);
    sp_sha256_of(out.data, out.length, &digest);
    sp_buf_append(&out, digest.bytes, sizeof(digest.bytes));
    char *path = path_of("snapshot");
    ck_assert_int_eq(sp_write_file_durable(path, out.data, out.length, 0600, &err), SP_OK);
    free(path);
    sp_buf_deinit(&out);
}

START_TEST(test_forged_headers_get_errors)
{
    static const char *const headers[] = {
        "",
        "[]",
        "{}",
        "{\"run\":1}",
        "{\"run\":\"r\"",
        "{\"run\":\"r\",\"numerics_class\":\"c\",\"iteration\":-1}",
        "{\"run\":\"r\",\"numerics_class\":\"c\",\"iteration\":1,\"attempt\":1,\"plan\":\"xyz\"}",
    };
    char *path = path_of("snapshot");
    for (size_t i = 0; i < SP_COUNT(headers); i++) {
        struct train_snapshot_file file;
        struct sp_error err = {0};
        write_forged(headers[i], 4);
        ck_assert_msg(train_snapshot_open(path, &file, &err) != SP_OK, "header %zu was taken", i);
        ck_assert_ptr_nonnull(strstr(err.text, "header"));
    }
    free(path);
}
END_TEST

START_TEST(test_sizes_must_agree_with_the_header)
{
    struct train_snapshot s = example(3);
    struct train_snapshot_file file;
    struct sp_error err = {0};
    s.n_params = 4;
    s.state_bytes = 0;
    ck_assert_int_eq(train_snapshot_write(dir, &s, &err), SP_OK);
    char *path = path_of("snapshot");
    ck_assert_int_eq(train_snapshot_open(path, &file, &err), SP_OK);
    char *header = sp_xstrndup((const char *)file.map.data + 20, file.map.length - 20 - 48);
    train_snapshot_close(&file);
    write_forged(header, 4);
    ck_assert_int_eq(train_snapshot_open(path, &file, &err), SP_OK);
    train_snapshot_close(&file);
    write_forged(header, 5);
    ck_assert_int_eq(train_snapshot_open(path, &file, &err), SP_EFORMAT);
    write_forged(header, 0);
    ck_assert_int_eq(train_snapshot_open(path, &file, &err), SP_EFORMAT);
    free(header);
    free(path);
}
END_TEST

START_TEST(test_drop_removes_everything)
{
    struct train_snapshot_file file;
    struct train_snapshot want = example(0);
    struct sp_error err = {0};
    write_example(1);
    write_example(2);
    ck_assert_int_eq(train_snapshot_drop(dir, "r", &err), SP_OK);
    ck_assert_int_eq(train_snapshot_find(dir, &want.identity, &no_rewind, &file, &err),
                     SP_ENOTFOUND);
    ck_assert_int_eq(train_snapshot_drop(dir, "r", &err), SP_OK);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("trainer/snapshot");
    TCase *c = tcase_create("snapshot");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_what_is_written_comes_back);
    tcase_add_test(c, test_narrow_parameters_and_state);
    tcase_add_test(c, test_the_one_before_stays_for_a_damaged_one);
    tcase_add_test(c, test_a_snapshot_of_another_training_is_not_used);
    tcase_add_test(c, test_damage_anywhere_is_found);
    tcase_add_test(c, test_forged_headers_get_errors);
    tcase_add_test(c, test_sizes_must_agree_with_the_header);
    tcase_add_test(c, test_a_backend_s_memory_is_written);
    tcase_add_test(c, test_drop_removes_everything);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
