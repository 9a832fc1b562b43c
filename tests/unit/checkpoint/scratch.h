/* A directory of a test's own, and whole files in it. */
#ifndef SPIN_TESTS_CHECKPOINT_SCRATCH_H
#define SPIN_TESTS_CHECKPOINT_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

#define ck_ok(call)                                                                                \
    do {                                                                                           \
        struct sp_error *ck_err = &error;                                                          \
        ck_err->text[0] = 0;                                                                       \
        enum sp_err ck_rc = (call);                                                                \
        ck_assert_msg(ck_rc == SP_OK, "%s: %s", sp_err_name(ck_rc), ck_err->text);                 \
    } while (0)

/* The call fails with this code, and its message contains the text. */
#define ck_fails(call, want, part)                                                                 \
    do {                                                                                           \
        error.text[0] = 0;                                                                         \
        enum sp_err ck_rc = (call);                                                                \
        ck_assert_msg(ck_rc == (want), "%s, not %s: %s", sp_err_name(ck_rc), #want, error.text);   \
        ck_assert_msg(strstr(error.text, part) != NULL, "\"%s\" lacks \"%s\"", error.text, part);  \
    } while (0)

__attribute__((unused)) static char *scratch_new(void)
{
    const char *base = getenv("TMPDIR");
    char *path = sp_xprintf("%s/spin-test-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(path));
    return path;
}

__attribute__((unused)) static void scratch_free(char *path)
{
    struct sp_error error = {0};
    ck_ok(sp_remove_tree(path, &error));
    free(path);
}

__attribute__((unused)) static void put_file(const char *dir, const char *name, const void *data,
                                             size_t length)
{
    char *path = sp_path_join(dir, name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    if (length > 0)
        ck_assert_uint_eq(fwrite(data, 1, length, file), length);
    ck_assert_int_eq(fclose(file), 0);
    free(path);
}

__attribute__((unused)) static void put_text(const char *dir, const char *name, const char *text)
{
    put_file(dir, name, text, strlen(text));
}

__attribute__((unused)) static char *get_text(const char *dir, const char *name)
{
    struct sp_error error = {0};
    char *path = sp_path_join(dir, name), *data;
    ck_ok(sp_read_file(path, 64 << 20, &data, NULL, &error));
    free(path);
    return data;
}

#endif
