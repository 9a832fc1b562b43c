#include "common/base/config.h"

#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

enum color { RED, GREEN, BLUE };
struct values {
    int64_t workers;
    double rate;
    bool verbose;
    char *name, *path;
    int color;
    int64_t buffer_bytes, wait_ms, seed;
    struct sp_f64_list beta;
};
#define AT(field) offsetof(struct values, field)

static const struct sp_setting settings[] = {
    {"run", "workers", SP_SET_I64, AT(workers), "2", 1, 64, "workers", "", "How many workers."},
    {"run", "name", SP_SET_STR, AT(name), "", 0, 0, "", "", "Name of the run."},
    {"run", "seed", SP_SET_I64, AT(seed), "1", 0, 9007199254740991.0, "", "",
     "Decides every draw."},
    {"train", "rate", SP_SET_F64, AT(rate), "5e-7", 0, 1, "", "", "Learning rate."},
    {"train", "beta", SP_SET_LIST, AT(beta), "0.1, 5", 1e-6, 1000, "", "", "By iteration."},
    {"train", "color", SP_SET_ENUM, AT(color), "green", 0, 0, "", "red|green|blue", "A choice."},
    {"train", "verbose", SP_SET_BOOL, AT(verbose), "false", 0, 0, "", "", "Says more."},
    {"net", "name", SP_SET_STR, AT(path), "/run/x", 0, 0, "", "", "Name of the socket."},
    {"net", "buffer", SP_SET_BYTES, AT(buffer_bytes), "4 MiB", 1024, 1073741824, "bytes", "",
     "Size of the buffer."},
    {"net", "wait", SP_SET_MS, AT(wait_ms), "20 s", 0, 600000, "ms", "", "How long to wait."},
};
static const struct sp_config_spec spec = {"test settings", settings, SP_COUNT(settings),
                                           sizeof(struct values)};

static enum sp_err parse(struct values *v, const char *text, struct sp_error *err)
{
    return sp_config_parse(&spec, text, strlen(text), "run.ini", v, err);
}

START_TEST(defaults_come_from_the_table)
{
    struct values v;
    sp_config_init(&spec, &v);
    ck_assert_int_eq(v.workers, 2);
    ck_assert(v.rate == 5e-7 && !v.verbose);
    ck_assert_str_eq(v.name, "");
    ck_assert_str_eq(v.path, "/run/x");
    ck_assert_int_eq(v.color, GREEN);
    ck_assert_int_eq(v.buffer_bytes, 4 << 20);
    ck_assert_int_eq(v.wait_ms, 20000);
    ck_assert_int_eq(v.beta.count, 2);
    ck_assert(sp_list_at(&v.beta, 0) == 0.1 && sp_list_at(&v.beta, 1) == 5.0);
    ck_assert(sp_list_at(&v.beta, 99) == 5.0); /* the last one repeats */
    sp_config_deinit(&spec, &v);
    sp_config_deinit(&spec, &v);
}
END_TEST

START_TEST(files_change_what_they_name)
{
    struct values v;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    enum sp_err rc =
        parse(&v,
              "\xef\xbb\xbf# comment\n; another\n\n[run]\r\n  workers=7  \r\nname = a; "
              "b # c = d\n[train]\nbeta: 1,2 , 3e0\ncolor = blue\nverbose = Yes\n"
              "[net]\nname =\nbuffer = 1.5 KiB\nwait = 0\n[run]\nseed = 9",
              &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_int_eq(v.workers, 7);
    ck_assert_str_eq(v.name, "a; b # c = d");
    ck_assert_int_eq(v.beta.count, 3);
    ck_assert(v.beta.values[2] == 3.0);
    ck_assert_int_eq(v.color, BLUE);
    ck_assert(v.verbose);
    ck_assert_str_eq(v.path, "");
    ck_assert_int_eq(v.buffer_bytes, 1536);
    ck_assert_int_eq(v.wait_ms, 0);
    ck_assert_int_eq(v.seed, 9);
    ck_assert(v.rate == 5e-7); /* not named, not changed */
    sp_config_deinit(&spec, &v);
}
END_TEST

/* Each is refused with this message, and changes nothing. */
static const struct {
    const char *text, *expected;
} malformed[] = {
    {"[run]\nworkers = 7\nwurkers = 8\n",
     "run.ini:3: [run] wurkers: unknown setting; did you mean \"workers\"?"},
    {"[run]\nrate = 1\n", "run.ini:2: [run] rate: unknown setting here; it belongs in [train]"},
    {"[rnu]\nworkers = 7\n", "run.ini:1: unknown section [rnu]; did you mean [run]?"},
    {"[run]\n[other]\n", "run.ini:2: unknown section [other]; did you mean ["},
    {"workers = 7\n", "run.ini:1: workers: stands before the first [section]"},
    {"[run]\nworkers = 7\n\nworkers = 7\n",
     "run.ini:4: [run] workers: given twice, first in line 2"},
    {"[run]\nworkers = 65\n",
     "run.ini:2: [run] workers: 65 is out of range, expected 1 to 64 workers"},
    {"[run]\nworkers = 0\n", "0 is out of range, expected 1 to 64 workers"},
    {"[run]\nworkers = seven\n", "run.ini:2: [run] workers: \"seven\" is not a whole number"},
    {"[run]\nworkers = 7.5\n", "\"7.5\" is not a whole number"},
    {"[run]\nworkers =\n", "\"\" is not a whole number"},
    {"[run]\nworkers = 7 ; seven\n", "\"7 ; seven\" is not a whole number"},
    {"[run]\nseed = 99999999999999999999\n", "99999999999999999999 does not fit in 64 bits"},
    {"[run]\nseed = -1\n", "-1 is out of range, expected 0 to 9007199254740991"},
    {"[train]\nrate = 1e\n", "[train] rate: \"1e\" is not a number"},
    {"[train]\nrate = nan\n", "\"nan\" is not a number"},
    {"[train]\nrate = 0x1p-3\n", "\"0x1p-3\" is not a number"},
    {"[train]\nrate = 1e999\n", "\"1e999\" is not a number"},
    {"[train]\nrate = 1.5\n", "1.5 is out of range, expected 0 to 1"},
    {"[train]\nbeta = 1, x\n", "\"1, x\" is not a number or a list such as 5e-7, 1e-7"},
    {"[train]\nbeta = 1,,2\n", "\"1,,2\" is not a number or a list"},
    {"[train]\nbeta = 1, 0\n", "0 is out of range, expected 1e-06 to 1000"},
    {"[train]\ncolor = Red\n", "[train] color: \"Red\" is not one of red, green, blue"},
    {"[train]\ncolor = red|green\n", "is not one of red, green, blue"},
    {"[train]\ncolor =\n", "\"\" is not one of red, green, blue"},
    {"[train]\nverbose = maybe\n", "[train] verbose: \"maybe\" is not true or false"},
    {"[net]\nbuffer = 4 MB\n", "[net] buffer: \"4 MB\": unknown unit \"MB\", expected a size such"},
    {"[net]\nbuffer = 1 KiBs\n", "unknown unit \"KiBs\""},
    {"[net]\nbuffer = -1 KiB\n", "\"-1 KiB\" is not a size such as"},
    {"[net]\nbuffer = 2 GiB\n", "2 GiB is out of range, expected 1 KiB to 1 GiB"},
    {"[net]\nbuffer = 99999999 TiB\n", "\"99999999 TiB\" is too large"},
    {"[net]\nwait = 20\n", "[net] wait: \"20\" has no unit, expected a duration such as"},
    {"[net]\nwait = 20 sec\n", "unknown unit \"sec\""},
    {"[net]\nwait = 11 min\n", "11 min is out of range, expected 0 to 10 min"},
    {"[run]\nname = \xff\n", "run.ini:2: the line is not valid UTF-8"},
    {"[run]\nworkers 7\n", "run.ini:2: expected \"name = value\""},
    {"[run\nworkers = 7\n", "run.ini:1: a section is one [name] alone on its line: [run"},
    {"[run] workers = 7\n", "run.ini:1: a section is one [name] alone on its line"},
    {"[run][net]\n", "a section is one [name] alone"},
    {"[]\n", "unknown section []"},
};

START_TEST(malformed_files_are_explained_and_change_nothing)
{
    struct values v, before;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    before = v;
    ck_assert_int_eq(parse(&v, malformed[_i].text, &err), SP_EFORMAT);
    ck_assert_msg(strstr(err.text, malformed[_i].expected) != NULL, "%s", err.text);
    ck_assert_msg(strncmp(err.text, "run.ini:", 8) == 0, "%s", err.text);
    ck_assert_mem_eq(&v, &before, sizeof(v));
    sp_config_deinit(&spec, &v);
}
END_TEST

START_TEST(long_lines_pass_and_longer_ones_do_not)
{
    struct values v;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    struct sp_buf text = SP_BUF_INIT;
    sp_buf_puts(&text, "[run]\nname = ");
    for (int i = 0; i < 65536 - 7; i++)
        sp_buf_putc(&text, 'x');
    sp_buf_puts(&text, "\nworkers = 3\n");
    enum sp_err rc = parse(&v, text.data, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_uint_eq(strlen(v.name), 65536 - 7);
    ck_assert_int_eq(v.workers, 3);
    sp_buf_clear(&text);
    sp_buf_puts(&text, "[run]\nname = ");
    for (int i = 0; i < 65536; i++)
        sp_buf_putc(&text, 'y');
    ck_assert_int_eq(parse(&v, text.data, &err), SP_EFORMAT);
    ck_assert_str_eq(err.text, "run.ini:2: the line has 65543 bytes, the limit is 65536");
    ck_assert_int_eq(v.name[0], 'x');
    static const char nul[] = "[run]\nname = a\0b\n";
    ck_assert_int_eq(sp_config_parse(&spec, nul, sizeof(nul) - 1, "run.ini", &v, &err), SP_EFORMAT);
    ck_assert_str_eq(err.text, "run.ini:2: a NUL byte; is this a text file?");
    ck_assert_int_eq(parse(&v, "", &err), SP_OK);
    sp_buf_deinit(&text);
    sp_config_deinit(&spec, &v);
}
END_TEST

START_TEST(files_are_loaded)
{
    char path[] = "/tmp/spin-config-XXXXXX";
    close(mkstemp(path));
    struct values v;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    ck_assert_int_eq(sp_write_file_durable(path, "[run]\nname = ok\n", 16, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_config_load(&spec, path, &v, &err), SP_OK);
    ck_assert_str_eq(v.name, "ok");
    char *large = sp_xalloc(2 << 20);
    memset(large, '\n', 2 << 20);
    ck_assert_int_eq(sp_write_file_durable(path, large, 2 << 20, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_config_load(&spec, path, &v, &err), SP_ELIMIT);
    free(large);
    unlink(path);
    ck_assert_int_eq(sp_config_load(&spec, path, &v, &err), SP_ENOTFOUND);
    ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
    sp_config_deinit(&spec, &v);
}
END_TEST

START_TEST(assignments)
{
    struct values v;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    ck_assert_int_eq(sp_config_set(&spec, "workers=5", &v, &err), SP_OK);
    ck_assert_int_eq(sp_config_set(&spec, "run.name = a=b", &v, &err), SP_OK);
    ck_assert_int_eq(sp_config_set(&spec, "net.name=", &v, &err), SP_OK);
    ck_assert_int_eq(v.workers, 5);
    ck_assert_str_eq(v.name, "a=b");
    ck_assert_str_eq(v.path, "");
    static const char *const bad[][2] = {
        {"name=x", "in more than one section"},
        {"workers", "expected section.name=value"},
        {"=5", "expected section.name=value"},
        {"wrokers=5", "unknown setting; did you mean \"workers\"?"},
        {"net.workers=5", "net.workers: unknown setting"},
        {"workers=0", "run.workers: 0 is out of range"},
    };
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        ck_assert_int_ne(sp_config_set(&spec, bad[i][0], &v, &err), SP_OK);
        ck_assert_msg(strstr(err.text, bad[i][1]) != NULL, "%s", err.text);
    }
    ck_assert_int_eq(v.workers, 5);
    sp_config_deinit(&spec, &v);
}
END_TEST

START_TEST(json_is_there_and_back)
{
    struct values v, w;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    sp_config_init(&spec, &w);
    ck_assert_int_eq(parse(&v,
                           "[run]\nname = \xc3\xa4\nseed = 9007199254740991\n[train]\nrate = 0.1\n"
                           "beta = 0.3\ncolor = red\nverbose = on\n[net]\nwait = 1.5 s\n",
                           &err),
                     SP_OK);
    json_t *object = sp_config_to_json(&spec, &v);
    char *text = sp_json_canonical(object);
    ck_assert_str_eq(text, "{\"net.buffer\":4194304,\"net.name\":\"/run/x\",\"net.wait\":1500,"
                           "\"run.name\":\"\xc3\xa4\",\"run.seed\":9007199254740991,"
                           "\"run.workers\":2,\"train.beta\":[0.29999999999999999],"
                           "\"train.color\":\"red\",\"train.rate\":0.10000000000000001,"
                           "\"train.verbose\":true}");
    json_t *parsed = NULL;
    ck_assert_int_eq(sp_json_parse(text, strlen(text), "x", &parsed, &err), SP_OK);
    enum sp_err rc = sp_config_from_json(&spec, parsed, &w, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    json_t *again = sp_config_to_json(&spec, &w);
    ck_assert(json_equal(object, again));
    ck_assert(w.rate == 0.1 && w.seed == 9007199254740991 && w.wait_ms == 1500);
    json_decref(object);
    json_decref(parsed);
    json_decref(again);
    free(text);
    sp_config_deinit(&spec, &v);
    sp_config_deinit(&spec, &w);
}
END_TEST

static const struct {
    const char *key, *json, *expected;
} bad_json[] = {
    {"run.workers", NULL, "field \"run.workers\": missing"},
    {"run.wurkers", "1", "unknown field \"run.wurkers\""},
    {"name", "\"x\"", "unknown field \"name\""},
    {"run.workers", "\"2\"", "field \"run.workers\": expected an integer"},
    {"run.workers", "2.5", "field \"run.workers\": expected an integer"},
    {"run.workers", "65", "field \"run.workers\": 65 is out of range"},
    {"train.rate", "true", "field \"train.rate\": expected a number"},
    {"train.rate", "2", "field \"train.rate\": 2 is out of range"},
    {"train.verbose", "1", "expected true or false"},
    {"run.name", "7", "expected a string"},
    {"train.color", "\"mauve\"", "\"mauve\" is not one of"},
    {"train.color", "0", "expected a string"},
    {"train.beta", "[]", "expected an array of 1 to 64 numbers"},
    {"train.beta", "0.1", "expected an array"},
    {"train.beta", "[0.1,\"x\"]", "element 1 is not a number"},
    {"train.beta", "[-1]", "-1 is out of range"},
    {"net.wait", "\"20 s\"", "expected an integer"},
};

START_TEST(wrong_json_is_explained)
{
    struct values v;
    struct sp_error err = {0};
    sp_config_init(&spec, &v);
    json_t *object = sp_config_to_json(&spec, &v);
    if (bad_json[_i].json != NULL)
        json_object_set_new(object, bad_json[_i].key,
                            json_loads(bad_json[_i].json, JSON_DECODE_ANY, NULL));
    else
        json_object_del(object, bad_json[_i].key);
    struct values before = v;
    ck_assert_int_eq(sp_config_from_json(&spec, object, &v, &err), SP_EFORMAT);
    ck_assert_msg(strstr(err.text, bad_json[_i].expected) != NULL, "%s", err.text);
    ck_assert_msg(strncmp(err.text, "test settings: ", 15) == 0, "%s", err.text);
    ck_assert_mem_eq(&v, &before, sizeof(v));
    ck_assert_int_eq(sp_config_from_json(&spec, NULL, &v, &err), SP_EFORMAT);
    json_decref(object);
    sp_config_deinit(&spec, &v);
}
END_TEST

/* The example file has every default commented out: uncommented, it must say the same. */
START_TEST(the_example_is_a_valid_file)
{
    struct values v, w;
    struct sp_error err = {0};
    struct sp_buf example = SP_BUF_INIT, active = SP_BUF_INIT;
    sp_config_init(&spec, &v);
    sp_config_init(&spec, &w);
    v.workers = 33;
    sp_config_example(&spec, &example);
    int settings_seen = 0;
    for (char *line = strtok(example.data, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        ck_assert_uint_le(strlen(line), 100);
        bool setting = line[0] == '#' && line[1] != ' ';
        settings_seen += setting;
        sp_buf_printf(&active, "%s\n", line + setting);
    }
    ck_assert_int_eq(settings_seen, (int)SP_COUNT(settings));
    enum sp_err rc = parse(&v, active.data, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    json_t *a = sp_config_to_json(&spec, &v), *b = sp_config_to_json(&spec, &w);
    ck_assert(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    sp_buf_deinit(&example);
    sp_buf_deinit(&active);
    sp_config_deinit(&spec, &v);
    sp_config_deinit(&spec, &w);
}
END_TEST

START_TEST(generated_texts_name_every_setting)
{
    void (*const makers[])(const struct sp_config_spec *, struct sp_buf *) = {
        sp_config_example, sp_config_help, sp_config_man, sp_config_markdown};
    struct sp_buf out = SP_BUF_INIT;
    makers[_i](&spec, &out);
    for (size_t i = 0; i < spec.count; i++)
        ck_assert_msg(strstr(out.data, settings[i].name) && strstr(out.data, settings[i].section),
                      "%s", settings[i].name);
    ck_assert(strstr(out.data, "How long to wait."));
    sp_buf_deinit(&out);
}
END_TEST

START_TEST(sizes_and_durations)
{
    int64_t n = -1;
    ck_assert(sp_parse_bytes("4 MiB", &n, NULL) == SP_OK && n == 4194304);
    ck_assert(sp_parse_bytes("4MiB", &n, NULL) == SP_OK && n == 4194304);
    ck_assert(sp_parse_bytes("17", &n, NULL) == SP_OK && n == 17);
    ck_assert(sp_parse_bytes("17 B", &n, NULL) == SP_OK && n == 17);
    ck_assert(sp_parse_bytes("0.5 TiB", &n, NULL) == SP_OK && n == (int64_t)1 << 39);
    ck_assert(sp_parse_ms("20 s", &n, NULL) == SP_OK && n == 20000);
    ck_assert(sp_parse_ms("0.2 s", &n, NULL) == SP_OK && n == 200);
    ck_assert(sp_parse_ms("500 ms", &n, NULL) == SP_OK && n == 500);
    ck_assert(sp_parse_ms("5 min", &n, NULL) == SP_OK && n == 300000);
    ck_assert(sp_parse_ms("2 h", &n, NULL) == SP_OK && n == 7200000);
    ck_assert(sp_parse_ms("1 d", &n, NULL) == SP_OK && n == 86400000);
    static const char *const bad[] = {"",
                                      " ",
                                      "s",
                                      "5 ",
                                      "5",
                                      "1. s",
                                      ".5 s",
                                      "5 S",
                                      "5 s s",
                                      "1e3 s",
                                      "9999999999999999999 s",
                                      "99999999999999999 d"};
    n = 7;
    for (size_t i = 0; i < SP_COUNT(bad); i++)
        ck_assert_msg(sp_parse_ms(bad[i], &n, NULL) == SP_EFORMAT && n == 7, "\"%s\"", bad[i]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("config");
    TCase *t = tcase_create("all");
    tcase_add_test(t, defaults_come_from_the_table);
    tcase_add_test(t, files_change_what_they_name);
    tcase_add_loop_test(t, malformed_files_are_explained_and_change_nothing, 0,
                        (int)SP_COUNT(malformed));
    tcase_add_test(t, long_lines_pass_and_longer_ones_do_not);
    tcase_add_test(t, files_are_loaded);
    tcase_add_test(t, assignments);
    tcase_add_test(t, json_is_there_and_back);
    tcase_add_loop_test(t, wrong_json_is_explained, 0, (int)SP_COUNT(bad_json));
    tcase_add_test(t, the_example_is_a_valid_file);
    tcase_add_loop_test(t, generated_texts_name_every_setting, 0, 4);
    tcase_add_test(t, sizes_and_durations);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
