/* The worker pool: every task once, memory seen on both sides, jobs in a row, too many threads. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/tensor/backend.h"
#include "common/tensor/cpu/pool.h"

struct job {
    int32_t in[64], out[64];
    atomic_int runs[64];
    int32_t threads;
};

static void task(void *context, int32_t i, int32_t worker)
{
    struct job *job = context;
    ck_assert(worker >= 0 && worker < job->threads);
    job->out[i] = 2 * job->in[i] + 1;
    atomic_fetch_add(&job->runs[i], 1);
}

static void run_jobs(int32_t threads, int32_t jobs, bool pauses)
{
    struct tn_pool *pool = NULL;
    struct sp_error err;
    ck_assert_int_eq(tn_pool_new(threads, &pool, &err), SP_OK);
    ck_assert_int_eq(tn_pool_threads(pool), threads);
    for (int32_t n = 0; n < jobs; n++) {
        struct job job = {.threads = threads};
        int32_t tasks = n % 65;
        for (int32_t i = 0; i < tasks; i++)
            job.in[i] = n + i;
        (n % 3 == 0 ? tn_pool_run : tn_pool_run_near)(pool, tasks, task, &job);
        for (int32_t i = 0; i < 64; i++) {
            ck_assert_int_eq(atomic_load(&job.runs[i]), i < tasks);
            ck_assert_int_eq(job.out[i], i < tasks ? 2 * (n + i) + 1 : 0);
        }
        if (pauses && n % 10 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    tn_pool_free(pool);
}

START_TEST(every_task_runs_once)
{
    run_jobs(_i + 1, _i < 2 ? 3000 : 300, false);
}
END_TEST

START_TEST(sleeping_workers_wake)
{
    run_jobs(2, 300, true);
}
END_TEST

START_TEST(more_threads_than_cores)
{
    run_jobs(tn_pool_cores() + 6, 300, false);
}
END_TEST

START_TEST(free_without_a_job)
{
    for (int32_t threads = 1; threads < 6; threads++)
        run_jobs(threads, 0, false);
    tn_pool_free(NULL);
}
END_TEST

/* What `spinctl workers` shows of a CPU. */
START_TEST(usage_of_the_processor)
{
    struct tn_backend_options options = {.threads = 1};
    struct tn_backend *backend;
    struct tn_usage first, idle, busy;
    struct sp_error err;
    ck_assert_int_eq(tn_open("cpu", &options, &backend, &err), SP_OK);
    tn_usage(backend, &first);
    ck_assert(isnan(first.busy)); /* since when? */
    ck_assert_uint_gt(first.memory_used, 1 << 20);
    ck_assert_uint_gt(first.memory_total, first.memory_used);
    ck_assert_uint_gt(first.memory_free, 1 << 20);
    ck_assert_uint_gt(first.memory_total, first.memory_free);
    sp_sleep_ms(100);
    tn_usage(backend, &idle);
    for (int i = 0; i < 3; i++)
        tn_probe(backend);
    tn_usage(backend, &busy);
    ck_assert(idle.busy >= 0 && idle.busy < busy.busy && busy.busy <= 1);
    tn_close(backend);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("pool");
    TCase *tcase = tcase_create("pool");
    tcase_set_timeout(tcase, 30);
    tcase_add_loop_test(tcase, every_task_runs_once, 0, 4);
    tcase_add_test(tcase, sleeping_workers_wake);
    tcase_add_test(tcase, more_threads_than_cores);
    tcase_add_test(tcase, free_without_a_job);
    tcase_add_test(tcase, usage_of_the_processor);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())
