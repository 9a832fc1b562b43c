/* A model in several GGUF files opens as one; parts that don't fit are refused by name. */
#include "common/checkpoint/gguf.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;
static char *dir;

static void setup(void)
{
    dir = scratch_new();
}

static void teardown(void)
{
    scratch_free(dir);
}

/* One part with one tensor of four numbers, all `first` and up. */
static void put_part(const char *name, uint32_t no, uint32_t count, uint32_t tensors,
                     const char *tensor, float first)
{
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    const float numbers[] = {first, first + 1, first + 2, first + 3};
    struct ckpt_array array = {.name = tensor, .dims = 2, .shape = {2, 2}, .data = numbers};
    enum ckpt_gguf_type type = CKPT_GGUF_F32;
    if (no == 0)
        ckpt_gguf_put_text(&meta, "general.architecture", "llama");
    ckpt_gguf_put_u32(&meta, "split.no", no);
    ckpt_gguf_put_u32(&meta, "split.count", count);
    ckpt_gguf_put_u32(&meta, "split.tensors.count", tensors);
    char *path = sp_path_join(dir, name);
    remove(path);
    ck_ok(ckpt_gguf_write(path, &meta, &array, &type, 1, &error));
    ckpt_gguf_meta_deinit(&meta);
    free(path);
}

static void put_all(void)
{
    put_part("m-00001-of-00003.gguf", 0, 3, 3, "c", 1);
    put_part("m-00002-of-00003.gguf", 1, 3, 3, "a", 10);
    put_part("m-00003-of-00003.gguf", 2, 3, 3, "b", 100);
}

static enum sp_err open_part(const char *name, struct ckpt_gguf **ret)
{
    char *path = sp_path_join(dir, name);
    enum sp_err rc = ckpt_gguf_open(path, ret, &error);
    free(path);
    return rc;
}

static void refused(enum sp_err want, const char *part)
{
    struct ckpt_gguf *gguf = NULL;
    ck_fails(open_part("m-00001-of-00003.gguf", &gguf), want, part);
}

START_TEST(test_opens_as_one)
{
    struct ckpt_gguf *gguf;
    put_all();
    ck_ok(open_part("m-00001-of-00003.gguf", &gguf));
    ck_assert_uint_eq(ckpt_gguf_count(gguf), 3);
    ck_assert(ckpt_gguf_has(gguf, "general.architecture"));
    for (size_t i = 0; i < 3; i++) {
        static const float first[] = {10, 100, 1};
        static const char *const names[] = {"a", "b", "c"};
        const struct ckpt_gguf_tensor *t = ckpt_gguf_at(gguf, i);
        float numbers[4];
        ck_assert_str_eq(t->name, names[i]);
        memcpy(numbers, t->data, sizeof(numbers));
        ck_assert(numbers[0] == first[i] && numbers[3] == first[i] + 3);
    }
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_refused)
{
    struct ckpt_gguf *gguf = NULL;
    put_all();
    ck_fails(open_part("m-00002-of-00003.gguf", &gguf), SP_EINVAL,
             "part 2 of 3; give the first one, ");
    put_part("m-00002-of-00003.gguf", 2, 3, 3, "a", 10);
    refused(SP_EFORMAT, "m-00002-of-00003.gguf: metadata \"split.no\" and \"split.count\": 2 of 3, "
                        "expected 1 of 3");
    put_part("m-00002-of-00003.gguf", 1, 3, 3, "b", 10);
    refused(SP_EFORMAT, "tensor b: is there twice");
    put_part("m-00002-of-00003.gguf", 1, 3, 3, "a", 10);
    put_part("m-00001-of-00003.gguf", 0, 3, 4, "c", 1);
    refused(SP_EFORMAT, "\"split.tensors.count\": 4, the parts hold 3");
    put_part("m-00001-of-00003.gguf", 0, 4, 3, "c", 1);
    refused(SP_ENOTFOUND, "m-00002-of-00004.gguf");
    put_all();
    char *path = sp_path_join(dir, "m-00003-of-00003.gguf");
    ck_assert_int_eq(remove(path), 0);
    refused(SP_ENOTFOUND, "m-00003-of-00003.gguf");
    free(path);
    put_part("part.gguf", 0, 3, 3, "c", 1);
    ck_fails(open_part("part.gguf", &gguf), SP_EFORMAT,
             "the file's name does not end in -00001-of-00003.gguf");
    ck_assert_ptr_null(gguf);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gguf_split");
    TCase *c = tcase_create("split");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_opens_as_one);
    tcase_add_test(c, test_refused);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
