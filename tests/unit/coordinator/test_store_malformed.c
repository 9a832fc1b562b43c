/* Databases that are damaged, foreign, newer, or hold values that cannot be: a clear error each,
 * never a crash, and the file stays as it was. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/store/db.h"
#include "tests/unit/coordinator/store_fixture.h"

/* A closed state directory with a run "one" that has some of everything in it. */
static struct fx closed_store(void)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    struct store_iteration it = {.iteration = 0, .summary = "{}"};
    struct proto_step_metrics step = {.step = 1};
    uint32_t order[2] = {1, 0};
    struct store_token token = {.id = "0123456789abcdef", .role = PROTO_ROLE_ADMIN, .name = "x"};
    struct store_event event = {.actor = "a", .kind = "k", .text = "t"};
    struct store_worker worker = {.name = "w", .role = PROTO_ROLE_TRAINER};
    store_begin(fx.store);
    for (uint64_t p = 0; p < 30; p++) {
        struct store_result r = fx_result(p, ids);
        OK(store_result_put(fx.run, &r, &put, &fx.err));
    }
    OK(store_iteration_put(fx.run, &it, &fx.err));
    OK(store_step_put(fx.run, 0, &step, &fx.err));
    OK(store_gap_order_put(fx.run, 0, order, 2, &fx.err));
    OK(store_skip_add(fx.run, 0, 1, "a", 1, &fx.err));
    OK(store_event_append(fx.store, fx.run, &event, &fx.err));
    OK(store_token_put(fx.store, &token, &fx.err));
    OK(store_worker_put(fx.store, &worker, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    store_close(fx.store);
    fx.store = NULL;
    return fx;
}

/* Every read that there is, until the first failure. */
static enum sp_err read_everything(struct fx *fx)
{
    struct sp_error *err = &fx->err;
    struct sp_arena *arena = fx->arena;
    struct store_run_info info;
    struct store_iteration *its = NULL;
    struct store_result *results = NULL;
    struct proto_step_metrics *steps = NULL;
    struct store_checkpoint *checkpoints = NULL;
    struct store_event *events = NULL;
    struct store_token *tokens = NULL;
    struct store_worker *workers = NULL;
    struct store_prompt prompts[FX_TRAIN];
    struct store_pair_key key = {1, 0, 1, 0};
    struct proto_train_pair pair;
    uint64_t lengths[FX_TRAIN], found = 0;
    uint32_t order[2], *skips = NULL;
    uint8_t bitmap[4] = {0};
    const char **names = NULL;
    size_t n = 0;
    enum sp_err rc = store_open(fx->dir, NULL, &fx->store, err);
#define THEN(call)                                                                                 \
    if (rc == SP_OK)                                                                               \
    rc = call
    THEN(store_runs_list(fx->store, arena, &names, &n, err));
    THEN(store_tokens_list(fx->store, arena, &tokens, &n, err));
    THEN(store_workers_list(fx->store, arena, &workers, &n, err));
    THEN(store_events_list(fx->store, NULL, 0, 10, arena, &events, &n, err));
    THEN(store_run_open(fx->store, "one", &fx->run, err));
    THEN(store_run_info(fx->run, arena, &info, err));
    THEN(store_prompts_get(fx->run, STORE_SPLIT_TRAIN, 0, FX_TRAIN, arena, prompts, err));
    THEN(store_prompt_lengths(fx->run, STORE_SPLIT_TRAIN, lengths, err));
    THEN(store_iterations_list(fx->run, arena, &its, &n, err));
    THEN(store_results_bitmap(fx->run, 0, 0, 30, false, bitmap, &found, err));
    THEN(store_results_range(fx->run, 0, 0, 0, 100, arena, &results, &n, err));
    THEN(store_pairs_read(fx->run, 0, 0, STORE_SPLIT_TRAIN, &key, 1, arena, &pair, NULL, err));
    THEN(store_gap_order_get(fx->run, 0, 2, order, err));
    THEN(store_skips_list(fx->run, 0, arena, &skips, &n, err));
    THEN(store_steps_list(fx->run, 0, 0, 10, arena, &steps, &n, err));
    THEN(store_checkpoints_list(fx->run, arena, &checkpoints, &n, err));
    THEN(store_events_list(fx->store, fx->run, 0, 10, arena, &events, &n, err));
    store_close(fx->store);
    fx->store = NULL;
    return rc;
}

static char *path_of(const struct fx *fx, const char *name)
{
    return sp_path_join(fx->dir, name);
}

/* code; words that the text must have */
static void expect(struct fx *fx, enum sp_err code, const char *words)
{
    enum sp_err rc = read_everything(fx);
    ck_assert_msg(rc == code, "%s (%s), expected %s", sp_err_name(rc), fx->err.text,
                  sp_err_name(code));
    ck_assert_msg(strstr(fx->err.text, words) != NULL, "no \"%s\" in: %s", words, fx->err.text);
}

/* SQL by hand, as somebody with the sqlite3 program could do it: no checks, any schema. */
static void by_hand(const struct fx *fx, const char *file, const char *sql)
{
    char *path = path_of(fx, file);
    sqlite3 *db = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    char *text = NULL;
    int rc = sqlite3_exec(db, "PRAGMA ignore_check_constraints=1; PRAGMA writable_schema=1", NULL,
                          NULL, NULL);
    ck_assert_int_eq(rc, SQLITE_OK);
    rc = sqlite3_exec(db, sql, NULL, NULL, &text);
    ck_assert_msg(rc == SQLITE_OK, "%s: %s", sql, text);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    free(path);
}

START_TEST(test_undamaged)
{
    struct fx fx = closed_store();
    OK(read_everything(&fx));
    fx_free(&fx);
}
END_TEST

/* ---- files ---- */

static void put_bytes(const struct fx *fx, const char *file, off_t at, const void *bytes, size_t n)
{
    char *path = path_of(fx, file);
    int fd = open(path, O_WRONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, bytes, n, at), (ssize_t)n);
    close(fd);
    free(path);
}

static void cut(const struct fx *fx, const char *file, off_t length)
{
    char *path = path_of(fx, file);
    ck_assert_int_eq(truncate(path, length), 0);
    free(path);
}

static const char *const both[] = {"control.db", "runs/one.db"};

START_TEST(test_not_a_database)
{
    struct fx fx = closed_store();
    put_bytes(&fx, both[_i], 0, "This is a text, not a database.", 31);
    expect(&fx, SP_ECORRUPT, both[_i]);
    fx_free(&fx);
}
END_TEST

START_TEST(test_cut_off)
{
    struct fx fx = closed_store();
    char *path = path_of(&fx, both[_i]);
    struct stat info;
    ck_assert_int_eq(stat(path, &info), 0);
    cut(&fx, both[_i], info.st_size / 2 / 8192 * 8192);
    expect(&fx, SP_ECORRUPT, both[_i]);
    free(path);
    fx_free(&fx);
}
END_TEST

START_TEST(test_header_alone)
{
    struct fx fx = closed_store();
    cut(&fx, both[_i], 60);
    expect(&fx, SP_ECORRUPT, both[_i]);
    fx_free(&fx);
}
END_TEST

START_TEST(test_empty_run_file)
{
    struct fx fx = closed_store();
    cut(&fx, "runs/one.db", 0);
    expect(&fx, SP_ECORRUPT, "empty");
    fx_free(&fx);
}
END_TEST

START_TEST(test_missing_run_file)
{
    struct fx fx = closed_store();
    char *path = path_of(&fx, "runs/one.db");
    ck_assert_int_eq(unlink(path), 0);
    expect(&fx, SP_ENOTFOUND, "missing");
    ck_assert_int_eq(mkdir(path, 0700), 0);
    expect(&fx, SP_EFORMAT, "regular file");
    ck_assert_int_eq(rmdir(path), 0);
    free(path);
    fx_free(&fx);
}
END_TEST

static int64_t number_of(const struct fx *fx, const char *file, const char *pragma)
{
    char *path = path_of(fx, file);
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_prepare_v2(db, pragma, -1, &statement, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(statement), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    free(path);
    return value;
}

/* Each page in turn is overwritten: the check at opening finds it, or nothing was in it: migrations
 * leave pages free. */
START_TEST(test_overwritten_pages)
{
    uint8_t noise[8192];
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)(i * 37 + 11);
    int64_t found = 0, unused = 0, free_pages = 0;
    for (int page = 1; page < 16; page++) {
        struct fx fx = closed_store();
        char *path = path_of(&fx, "runs/one.db");
        struct stat info;
        ck_assert_int_eq(stat(path, &info), 0);
        free(path);
        free_pages = number_of(&fx, "runs/one.db", "PRAGMA freelist_count");
        if (page * 8192 < info.st_size) {
            put_bytes(&fx, "runs/one.db", page * 8192, noise, sizeof(noise));
            enum sp_err rc = read_everything(&fx);
            ck_assert_msg(rc == SP_ECORRUPT || rc == SP_OK, "page %d: %s %s", page, sp_err_name(rc),
                          fx.err.text);
            unused += rc == SP_OK;
            found += rc != SP_OK;
        }
        fx_free(&fx);
    }
    ck_assert_int_ge(found, 10);
    ck_assert_int_le(unused, free_pages);
}
END_TEST

/* ---- marks and versions ---- */

START_TEST(test_foreign_database)
{
    struct fx fx = closed_store();
    by_hand(&fx, both[_i], "PRAGMA application_id=7");
    expect(&fx, SP_EFORMAT, "application id 7");
    fx_free(&fx);
}
END_TEST

START_TEST(test_control_and_run_exchanged)
{
    struct fx fx = closed_store();
    char *a = path_of(&fx, both[0]), *b = path_of(&fx, both[1]), *c = path_of(&fx, "c");
    ck_assert_int_eq(rename(a, c), 0);
    ck_assert_int_eq(rename(b, a), 0);
    ck_assert_int_eq(rename(c, b), 0);
    expect(&fx, SP_EFORMAT, "control.db");
    free(a);
    free(b);
    free(c);
    fx_free(&fx);
}
END_TEST

START_TEST(test_runs_exchanged)
{
    struct fx fx = closed_store();
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    OK(fx_build(fx.dir, "two", NULL, &fx.err));
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "two", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    store_close(fx.store);
    fx.store = NULL;
    char *a = path_of(&fx, "runs/one.db"), *b = path_of(&fx, "runs/two.db");
    ck_assert_int_eq(rename(b, a), 0);
    expect(&fx, SP_ECORRUPT, "holds run \"two\"");
    free(a);
    free(b);
    fx_free(&fx);
}
END_TEST

START_TEST(test_newer_schema)
{
    struct fx fx = closed_store();
    char back[64], words[96];
    int64_t version = number_of(&fx, both[_i], "PRAGMA user_version");
    snprintf(back, sizeof(back), "PRAGMA user_version=%lld", (long long)version);
    snprintf(words, sizeof(words), "newer version of this program (schema 99, known: %lld)",
             (long long)version);
    by_hand(&fx, both[_i], "PRAGMA user_version=99");
    expect(&fx, SP_EVERSION, words);
    by_hand(&fx, both[_i], back); /* and it was not touched */
    OK(read_everything(&fx));
    by_hand(&fx, both[_i], "PRAGMA user_version=-3");
    expect(&fx, SP_ECORRUPT, "schema -3");
    fx_free(&fx);
}
END_TEST

START_TEST(test_tables_changed)
{
    static const char *const changes[] = {
        "DROP TABLE results",
        "ALTER TABLE steps ADD COLUMN more INTEGER",
        "ALTER TABLE results RENAME COLUMN finish TO done",
        "CREATE TABLE extra(a)",
        "CREATE TRIGGER t AFTER INSERT ON results BEGIN DELETE FROM results; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON events(kind)",
    };
    for (size_t i = 0; i < SP_COUNT(changes); i++) {
        struct fx fx = closed_store();
        by_hand(&fx, "runs/one.db", changes[i]);
        expect(&fx, SP_ECORRUPT, "its tables are not those of a run's file");
        fx_free(&fx);
    }
}
END_TEST

/* ---- values ---- */

START_TEST(test_values_that_cannot_be)
{
    static const struct {
        const char *file, *sql, *words;
    } cases[] = {
        {"runs/one.db",
         "UPDATE answers SET ids = x'010203' WHERE id = "
         "(SELECT answer FROM results WHERE position = 7)",
         "column ids"},
        {"runs/one.db",
         "UPDATE answers SET ids = x'ffffffff' WHERE id = "
         "(SELECT answer FROM results WHERE position = 7)",
         "column ids"},
        {"runs/one.db", "UPDATE results SET finish = 9 WHERE position = 7", "column finish"},
        {"runs/one.db", "UPDATE results SET position = 1000 WHERE position = 7", "position=1000"},
        {"runs/one.db", "UPDATE results SET position = -1 WHERE position = 7", "table results"},
        {"runs/one.db", "UPDATE results SET prompt = 5000000000 WHERE position = 7", "prompt"},
        {"runs/one.db", "UPDATE results SET ref_real = -1 WHERE position = 7", "table results"},
        {"runs/one.db", "UPDATE results SET prompt = 2 WHERE position = 1", "prompts and results"},
        {"runs/one.db", "UPDATE prompts SET real_ids = x'00' WHERE idx = 3", "column real_ids"},
        {"runs/one.db", "DELETE FROM prompts WHERE idx = 3", "prompt"},
        {"runs/one.db", "UPDATE iterations SET state = 'dreaming'", "column state"},
        {"runs/one.db", "UPDATE iterations SET opponent = x'01'", "column opponent"},
        {"runs/one.db", "UPDATE iterations SET pass_order = 8", "column pass_order"},
        {"runs/one.db", "UPDATE iterations SET accepted = 2", "column accepted"},
        {"runs/one.db", "UPDATE iterations SET epoch = -1", "column epoch"},
        {"runs/one.db", "UPDATE gap_orders SET positions = x'0000000000000000'", "gap_orders"},
        {"runs/one.db", "UPDATE gap_orders SET positions = x'00000000'", "gap_orders"},
        {"runs/one.db", "UPDATE steps SET pairs = -5", "column pairs"},
        {"runs/one.db", "UPDATE checkpoints SET manifest = x''", "column manifest"},
        {"runs/one.db", "UPDATE events SET iteration = -2", "column iteration"},
        {"runs/one.db", "UPDATE info SET base = x'00'", "column base"},
        {"runs/one.db", "UPDATE info SET train_prompts = -1", "column train_prompts"},
        {"runs/one.db", "DELETE FROM info", "table info is empty"},
        {"control.db", "UPDATE tokens SET role = 77", "column role"},
        {"control.db", "UPDATE tokens SET secret_sha = x'00'", "column secret_sha"},
        {"control.db", "UPDATE tokens SET name = 'a' || char(0) || 'b'", "column name"},
        {"control.db", "UPDATE workers SET role = 0", "column role"},
        {"control.db", "UPDATE runs SET name = '../one'", "column name"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct fx fx = closed_store();
        by_hand(&fx, cases[i].file, cases[i].sql);
        enum sp_err rc = read_everything(&fx);
        ck_assert_msg(rc == SP_ECORRUPT || rc == SP_ENOTFOUND, "%s: %s %s", cases[i].sql,
                      sp_err_name(rc), fx.err.text);
        ck_assert_msg(strstr(fx.err.text, cases[i].words), "%s: no \"%s\" in: %s", cases[i].sql,
                      cases[i].words, fx.err.text);
        fx_free(&fx);
    }
}
END_TEST

/* ---- migrations, with a schema of the test's own ---- */

static const char *const steps_v1[] = {"CREATE TABLE a(x INTEGER) STRICT;"};
static const char *const steps_v3[] = {
    "CREATE TABLE a(x INTEGER) STRICT;",
    "CREATE TABLE b(y TEXT) STRICT; INSERT INTO b SELECT 'row ' || x FROM a;",
    "ALTER TABLE a ADD COLUMN z INTEGER;",
};
static const char *const steps_bad[] = {
    "CREATE TABLE a(x INTEGER) STRICT;",
    "CREATE TABLE b(y TEXT) STRICT; CREATE TABLE a(x);", /* there is one */
};
static const struct sdb_schema v1 = {77, "a test's file", steps_v1, 1};
static const struct sdb_schema v3 = {77, "a test's file", steps_v3, 3};
static const struct sdb_schema bad = {77, "a test's file", steps_bad, 2};

static int64_t ask(struct sdb *db, const char *sql)
{
    struct fx fx = {0};
    sqlite3_stmt *statement = NULL;
    bool row = false;
    OK(sdb_query(db, sql, &statement, &fx.err, ""));
    OK(sdb_step(db, statement, &row, &fx.err));
    int64_t value = row ? sqlite3_column_int64(statement, 0) : -1;
    sdb_done(statement);
    return value;
}

START_TEST(test_migration)
{
    struct fx fx = fx_new(NULL);
    char *path = path_of(&fx, "x.db"), *copy = path_of(&fx, "x.db.v1.bak");
    struct sdb_options create = {.create = true, .check = true}, open = {.check = true};
    struct sdb *db = NULL;
    OK(sdb_open(path, &v1, &create, &db, &fx.err));
    OK(sdb_write(db, &fx.err));
    OK(sdb_run(db, "INSERT INTO a VALUES (?1)", NULL, &fx.err, "i", (int64_t)5));
    OK(sdb_commit(db, &fx.err));
    sdb_close(db);
    struct sdb_options reader = {.readonly = true};
    FAILS(SP_EVERSION, sdb_open(path, &v3, &reader, &db, &fx.err)); /* a reader does not migrate */
    /* One that fails leaves the old schema, and everything in it. */
    FAILS(SP_EINTERNAL, sdb_open(path, &bad, &open, &db, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "migrate to schema 2"));
    OK(sdb_open(path, &v1, &open, &db, &fx.err));
    ck_assert_int_eq(ask(db, "SELECT x FROM a"), 5);
    sdb_close(db);
    ck_assert_int_eq(unlink(copy), 0);
    OK(sdb_open(path, &v3, &open, &db, &fx.err));
    ck_assert_int_eq(ask(db, "SELECT count(*) FROM b WHERE y = 'row 5'"), 1);
    ck_assert_int_eq(ask(db, "PRAGMA user_version"), 3);
    sdb_close(db);
    FAILS(SP_EVERSION, sdb_open(path, &v1, &open, &db, &fx.err)); /* the old program refuses it */
    OK(sdb_open(copy, &v1, &open, &db, &fx.err));                 /* and can go on with the copy */
    ck_assert_int_eq(ask(db, "SELECT x FROM a"), 5);
    sdb_close(db);
    free(path);
    free(copy);
    fx_free(&fx);
}
END_TEST

/* A run's file from before answers stood apart, in the order of arrival: the same rows, and still
 * one of a key. */
START_TEST(test_results_of_an_older_file)
{
    struct fx fx = fx_new(NULL);
    char *path = path_of(&fx, "old.db");
    struct sdb_schema old = sdb_run_schema;
    struct sdb_options create = {.create = true}, open = {.check = true};
    struct sdb *db = NULL;
    static const char insert[] =
        "INSERT INTO results(iteration, work_set, position, prompt, sample, source_iteration, ids,"
        " finish, ref_real, ref_generated, trainer_real, trainer_generated, worker, at_ms)"
        " VALUES (?1, 0, ?2, 4, 5, 6, x'0100000002000000', 1, 7, 8, 9, 10, 'w', 11) ON CONFLICT DO "
        "NOTHING";
    static const char again[] =
        "INSERT INTO results(iteration, work_set, position, prompt, sample, source_iteration,"
        " tokens, answer, finish, ref_real, ref_generated, worker, at_ms)"
        " VALUES (?1, 0, ?2, 4, 5, 6, 0, 0, 1, 7, 8, 'w', 11) ON CONFLICT DO NOTHING";
    int changes = 0;
    old.count = 3;
    OK(sdb_open(path, &old, &create, &db, &fx.err));
    OK(sdb_write(db, &fx.err));
    for (int64_t position = 9; position >= 0; position--)
        OK(sdb_run(db, insert, NULL, &fx.err, "ii", (int64_t)2, position));
    OK(sdb_commit(db, &fx.err));
    sdb_close(db);
    OK(sdb_open(path, &sdb_run_schema, &open, &db, &fx.err));
    ck_assert_int_eq(ask(db, "SELECT count(*) FROM results WHERE iteration = 2 AND work_set = 0"
                             " AND prompt = 4 AND sample = 5 AND source_iteration = 6"
                             " AND tokens = 2 AND finish = 1 AND ref_real = 7 AND answer IN"
                             " (SELECT id FROM answers WHERE ids = x'0100000002000000')"
                             " AND ref_generated = 8 AND trainer_real = 9"
                             " AND trainer_generated = 10 AND worker = 'w' AND at_ms = 11"),
                     10);
    OK(sdb_write(db, &fx.err));
    OK(sdb_run(db, again, &changes, &fx.err, "ii", (int64_t)2, (int64_t)3));
    ck_assert_int_eq(changes, 0);
    ck_assert_int_eq(ask(db, "SELECT count(*) FROM answers"), 10);
    sdb_close(db);
    free(path);
    fx_free(&fx);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("store_malformed");
    TCase *t = tcase_create("store_malformed");
    tcase_add_test(t, test_undamaged);
    tcase_add_loop_test(t, test_not_a_database, 0, 2);
    tcase_add_loop_test(t, test_cut_off, 0, 2);
    tcase_add_loop_test(t, test_header_alone, 0, 2);
    tcase_add_test(t, test_empty_run_file);
    tcase_add_test(t, test_missing_run_file);
    tcase_add_test(t, test_overwritten_pages);
    tcase_add_loop_test(t, test_foreign_database, 0, 2);
    tcase_add_test(t, test_control_and_run_exchanged);
    tcase_add_test(t, test_runs_exchanged);
    tcase_add_loop_test(t, test_newer_schema, 0, 2);
    tcase_add_test(t, test_tables_changed);
    tcase_add_test(t, test_values_that_cannot_be);
    tcase_add_test(t, test_migration);
    tcase_add_test(t, test_results_of_an_older_file);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
