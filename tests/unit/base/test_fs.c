#include "common/base/fs.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/base/mem.h"
#include "tests/unit/check_main.h"

static char dir[64];

static void setup(void)
{
    strcpy(dir, "/tmp/spin-fs-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    ck_assert_int_eq(sp_remove_tree(dir, NULL), SP_OK);
    ck_assert(!sp_path_exists(dir));
}

static int entries(void)
{
    DIR *stream = opendir(dir);
    int n = 0;
    while (readdir(stream) != NULL)
        n++;
    closedir(stream);
    return n - 2;
}

START_TEST(written_files_read_back)
{
    char *path = sp_path_join(dir, "file"), *data = NULL;
    size_t length = 0;
    struct sp_error err = {0};
    ck_assert_int_eq(sp_write_file_durable(path, "one\0two", 7, 0640, &err), SP_OK);
    ck_assert_int_eq(sp_read_file(path, 7, &data, &length, &err), SP_OK);
    ck_assert_uint_eq(length, 7);
    ck_assert_mem_eq(data, "one\0two", 8); /* a NUL behind */
    free(data);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777 & ~0640, 0);
    ck_assert_int_eq(st.st_mode & 0600, 0600);
    ck_assert_int_eq(sp_write_file_durable(path, "", 0, 0600, &err), SP_OK); /* replaces */
    ck_assert_int_eq(sp_read_file(path, 0, &data, &length, &err), SP_OK);
    ck_assert_uint_eq(length, 0);
    free(data);
    ck_assert_int_eq(entries(), 1); /* no temporary file stays */
    free(path);
}
END_TEST

START_TEST(reading_has_limits_and_reasons)
{
    char *path = sp_path_join(dir, "file"), *data = NULL;
    size_t length;
    struct sp_error err = {0};
    ck_assert_int_eq(sp_read_file(path, 10, &data, &length, &err), SP_ENOTFOUND);
    ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
    ck_assert_int_eq(sp_write_file_durable(path, "12345678901", 11, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_read_file(path, 10, &data, &length, &err), SP_ELIMIT);
    ck_assert_msg(strstr(err.text, "11 bytes, the limit is 10") != NULL, "%s", err.text);
    ck_assert_int_eq(sp_read_file(dir, 10, &data, &length, &err), SP_EIO);
    /* A device has no size to check first, and does not end. */
    ck_assert_int_eq(sp_read_file("/dev/zero", 100000, &data, &length, &err), SP_ELIMIT);
    ck_assert_ptr_null(data);
    free(path);
}
END_TEST

START_TEST(a_failed_write_leaves_nothing)
{
    char *path = sp_path_join(dir, "no/such/file");
    struct sp_error err = {0};
    ck_assert_int_eq(sp_write_file_durable(path, "x", 1, 0600, &err), SP_ENOTFOUND);
    char *sub = sp_path_join(dir, "sub");
    ck_assert_int_eq(sp_mkdir_p(sub, 0700, NULL), SP_OK);
    ck_assert_int_ne(sp_write_file_durable(sub, "x", 1, 0600, &err), SP_OK); /* a directory */
    ck_assert_int_eq(entries(), 1);
    free(sub);
    free(path);
}
END_TEST

START_TEST(modes_are_those_of_open)
{
    char *path = sp_path_join(dir, "file");
    struct stat st;
    mode_t before = umask(027);
    ck_assert_int_eq(sp_write_file_durable(path, "x", 1, 0666, NULL), SP_OK);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0640);
    ck_assert_int_eq(umask(before), 027);
    free(path);
}
END_TEST

START_TEST(directories_come_and_go)
{
    char *path = sp_path_join(dir, "a/b//c/"), *file = sp_path_join(path, "f");
    char *outside = sp_path_join(dir, "kept"), *link = sp_path_join(path, "link");
    char *top = sp_path_join(dir, "a");
    struct sp_error err = {0};
    ck_assert_int_eq(sp_mkdir_p(path, 0700, &err), SP_OK);
    ck_assert_int_eq(sp_mkdir_p(path, 0700, &err), SP_OK); /* again is fine */
    ck_assert_int_eq(sp_write_file_durable(file, "x", 1, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_mkdir_p(file, 0700, &err), SP_EEXIST);
    ck_assert_int_eq(sp_mkdir_p(outside, 0700, NULL), SP_OK);
    char *inside = sp_path_join(outside, "x");
    ck_assert_int_eq(sp_write_file_durable(inside, "x", 1, 0600, NULL), SP_OK);
    ck_assert_int_eq(symlink(outside, link), 0);
    ck_assert_int_eq(sp_remove_tree(top, &err), SP_OK);
    ck_assert(!sp_path_exists(top));
    ck_assert(sp_path_exists(inside)); /* links are removed, not followed */
    ck_assert_int_eq(sp_remove_tree(top, &err), SP_OK);
    free(path);
    free(file);
    free(outside);
    free(link);
    free(top);
    free(inside);
}
END_TEST

START_TEST(rename_and_fsync)
{
    char *a = sp_path_join(dir, "a"), *b = sp_path_join(dir, "b");
    struct sp_error err = {0};
    ck_assert_int_eq(sp_write_file_durable(a, "x", 1, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_rename_durable(a, b, &err), SP_OK);
    ck_assert(!sp_path_exists(a) && sp_path_exists(b));
    ck_assert_int_eq(sp_rename_durable(a, b, &err), SP_ENOTFOUND);
    ck_assert_int_eq(sp_fsync_path(b, &err), SP_OK);
    ck_assert_int_eq(sp_fsync_dir(dir, &err), SP_OK);
    ck_assert_int_ne(sp_fsync_dir(b, &err), SP_OK);
    ck_assert_int_eq(sp_fsync_path(a, &err), SP_ENOTFOUND);
    free(a);
    free(b);
}
END_TEST

START_TEST(join_puts_one_slash)
{
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        char *path = sp_path_join(cases[i][0], cases[i][1]);
        ck_assert_str_eq(path, cases[i][2]);
        free(path);
    }
}
END_TEST

START_TEST(only_safe_paths_are_safe)
{
    static const char *const good[] = {
        "a", "model-00001-of-00002.safetensors", "a/b/c", "..a", "a..", ".hidden"};
    static const char *const bad[] = {"",     "/", "/a",  "a/",    "a//b", "..", "../a", "a/../b",
                                      "a/..", ".", "./a", "a/./b", "a\nb", "ä",  "a\\b", "a\x7f"};
    for (size_t i = 0; i < SP_COUNT(good); i++)
        ck_assert_msg(sp_path_is_safe(good[i]), "%s", good[i]);
    for (size_t i = 0; i < SP_COUNT(bad); i++)
        ck_assert_msg(!sp_path_is_safe(bad[i]), "%s", bad[i]);
    char path[300];
    memset(path, 'a', sizeof(path));
    path[255] = 0;
    ck_assert(sp_path_is_safe(path));
    path[255] = 'a';
    path[256] = 0;
    ck_assert(!sp_path_is_safe(path));
}
END_TEST

START_TEST(maps)
{
    char *path = sp_path_join(dir, "file");
    struct sp_error err = {0};
    struct sp_map map = {NULL, 99};
    ck_assert_int_eq(sp_map_file(path, &map, &err), SP_ENOTFOUND);
    ck_assert_uint_eq(map.length, 99);
    ck_assert_int_eq(sp_write_file_durable(path, "", 0, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_map_file(path, &map, &err), SP_OK);
    ck_assert_uint_eq(map.length, 0);
    sp_unmap(&map);
    ck_assert_int_eq(sp_write_file_durable(path, "abc", 3, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_map_file(path, &map, &err), SP_OK);
    ck_assert_uint_eq(map.length, 3);
    ck_assert_mem_eq(map.data, "abc", 3);
    sp_unmap(&map);
    ck_assert_ptr_null(map.data);
    ck_assert_int_eq(sp_map_file(dir, &map, &err), SP_EIO);
    /* A pipe nobody writes to is refused at once. */
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(sp_map_file(path, &map, &err), SP_EIO);
    free(path);
}
END_TEST

START_TEST(a_locked_directory_names_its_holder)
{
    int fd = -1, other = -1;
    struct sp_error err = {0};
    ck_assert_int_eq(sp_lock_dir(dir, &fd, &err), SP_OK);
    ck_assert_int_eq(sp_lock_dir(dir, &other, &err), SP_ESTATE);
    char expected[64];
    snprintf(expected, sizeof(expected), "in use by process %ld", (long)getpid());
    ck_assert_msg(strstr(err.text, expected) != NULL, "%s", err.text);
    close(fd);
    /* Death lets go of it. */
    pid_t child = fork();
    if (child == 0)
        _exit(sp_lock_dir(dir, &fd, &err) == SP_OK ? 0 : 1);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(sp_lock_dir(dir, &fd, &err), SP_OK);
    close(fd);
    char *none = sp_path_join(dir, "none");
    ck_assert_int_eq(sp_lock_dir(none, &fd, &err), SP_ENOTFOUND);
    free(none);
}
END_TEST

START_TEST(file_systems)
{
    uint64_t bytes = 0;
    struct sp_error err = {0};
    ck_assert_int_eq(sp_disk_free(dir, &bytes, &err), SP_OK);
    ck_assert_uint_gt(bytes, 0);
    char *none = sp_path_join(dir, "none");
    ck_assert_int_eq(sp_disk_free(none, &bytes, &err), SP_ENOTFOUND);
    free(none);
    ck_assert(!sp_is_network_fs("/proc"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("fs");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, written_files_read_back);
    tcase_add_test(t, reading_has_limits_and_reasons);
    tcase_add_test(t, a_failed_write_leaves_nothing);
    tcase_add_test(t, modes_are_those_of_open);
    tcase_add_test(t, directories_come_and_go);
    tcase_add_test(t, rename_and_fsync);
    tcase_add_test(t, join_puts_one_slash);
    tcase_add_test(t, only_safe_paths_are_safe);
    tcase_add_test(t, maps);
    tcase_add_test(t, a_locked_directory_names_its_holder);
    tcase_add_test(t, file_systems);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
