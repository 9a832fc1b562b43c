#include "common/tensor/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/mem.h"

#define SPIN_NS 40000 /* longer than the gaps between the products of a layer */

struct range { /* of a worker's tasks */
    _Alignas(64) atomic_int next;
    int32_t end;
};

struct tn_pool {
    int32_t threads;
    bool spins;         /* no: more threads than cores */
    pthread_t *handles; /* threads - 1, of workers 1 … */
    int32_t started;

    /* the job: written by the caller before `job` is raised */
    tn_task_fn *run;
    void *context;
    int32_t tasks;
    bool near;            /* by ranges, not from next_task */
    struct range *ranges; /* (threads) */

    _Alignas(64) atomic_uint job; /* raised for every job */
    _Alignas(64) atomic_int next_task;
    _Alignas(64) atomic_uint working; /* workers that haven't finished the job yet */
    atomic_bool stop;

    pthread_mutex_t lock; /* for sleeping only */
    pthread_cond_t wake, done;
    int32_t sleeping;   /* workers in `wake`, under the lock */
    bool caller_sleeps; /* the caller is in `done`, under the lock */
};

struct worker_start {
    struct tn_pool *pool;
    int32_t worker;
};

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Waits a little for *value to be other than `seen` (or, with `equal`, to be it). */
static bool spin(const struct tn_pool *pool, const atomic_uint *value, unsigned seen, bool equal)
{
    int64_t end = pool->spins ? clock_ns() + SPIN_NS : 0;
    do {
        for (int i = 0; i < 16; i++) {
            if ((atomic_load_explicit(value, memory_order_acquire) == seen) == equal)
                return true;
            pause_cpu();
        }
    } while (pool->spins && clock_ns() < end);
    return false;
}

int32_t tn_pool_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count;
}

static void work_near(struct tn_pool *pool, int32_t worker)
{
    for (int32_t i = 0; i < pool->threads; i++) {
        struct range *range = &pool->ranges[(worker + i) % pool->threads];
        while (atomic_load_explicit(&range->next, memory_order_relaxed) < range->end) {
            int32_t task = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
            if (task < range->end)
                pool->run(pool->context, task, worker);
        }
    }
}

static void work(struct tn_pool *pool, int32_t worker)
{
    if (pool->near) {
        work_near(pool, worker);
        return;
    }
    for (;;) {
        int32_t task = atomic_fetch_add_explicit(&pool->next_task, 1, memory_order_relaxed);
        if (task >= pool->tasks)
            return;
        pool->run(pool->context, task, worker);
    }
}

/* Returns when the job number differs from `seen`, or at the end. */
static unsigned wait_for_job(struct tn_pool *pool, unsigned seen)
{
    unsigned job;
    if (spin(pool, &pool->job, seen, false))
        return atomic_load_explicit(&pool->job, memory_order_acquire);
    pthread_mutex_lock(&pool->lock);
    while ((job = atomic_load(&pool->job)) == seen) {
        pool->sleeping++;
        pthread_cond_wait(&pool->wake, &pool->lock);
        pool->sleeping--;
    }
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *worker_main(void *argument)
{
    struct worker_start *start = argument;
    struct tn_pool *pool = start->pool;
    int32_t worker = start->worker;
    sp_free_block(start);
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_job(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        work(pool, worker);
        if (atomic_fetch_sub(&pool->working, 1) == 1) {
            pthread_mutex_lock(&pool->lock);
            if (pool->caller_sleeps)
                pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void raise_job(struct tn_pool *pool)
{
    atomic_fetch_add(&pool->job, 1);
    /* A worker counts itself as sleeping under the lock after it has looked at `job`, so taking the
     * lock here either finds it asleep or makes it look again. */
    pthread_mutex_lock(&pool->lock);
    bool asleep = pool->sleeping > 0;
    pthread_mutex_unlock(&pool->lock);
    if (asleep)
        pthread_cond_broadcast(&pool->wake);
}

static void run_job(struct tn_pool *pool, int32_t tasks, tn_task_fn *run, void *context, bool near)
{
    if (pool->threads == 1 || tasks <= 1) {
        for (int32_t task = 0; task < tasks; task++)
            run(context, task, 0);
        return;
    }
    for (int32_t w = 0; near && w < pool->threads; w++) {
        struct range *range = &pool->ranges[w];
        range->end = (int32_t)((int64_t)tasks * (w + 1) / pool->threads);
        atomic_store(&range->next, (int32_t)((int64_t)tasks * w / pool->threads));
    }
    pool->near = near;
    pool->run = run;
    pool->context = context;
    pool->tasks = tasks;
    atomic_store(&pool->next_task, 0);
    atomic_store(&pool->working, (unsigned)pool->threads - 1);
    raise_job(pool);
    work(pool, 0);
    if (spin(pool, &pool->working, 0, true))
        return;
    pthread_mutex_lock(&pool->lock);
    pool->caller_sleeps = true;
    while (atomic_load(&pool->working) != 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pool->caller_sleeps = false;
    pthread_mutex_unlock(&pool->lock);
}

void tn_pool_run(struct tn_pool *pool, int32_t tasks, tn_task_fn *run, void *context)
{
    run_job(pool, tasks, run, context, false);
}

void tn_pool_run_near(struct tn_pool *pool, int32_t tasks, tn_task_fn *run, void *context)
{
    run_job(pool, tasks, run, context, true);
}

enum sp_err tn_pool_new(int32_t threads, struct tn_pool **ret, struct sp_error *err)
{
    struct tn_pool *pool = sp_alloc_block(1, sizeof(*pool));
    struct range *ranges = sp_alloc_block((size_t)threads, sizeof(*ranges));
    if (!pool || !ranges) {
        sp_free_block(pool);
        sp_free_block(ranges);
        return sp_fail(err, SP_ENOMEM, "worker pool");
    }
    pool->ranges = ranges;
    pool->threads = threads;
    pool->spins = threads <= tn_pool_cores();
    pool->handles = sp_xarray((size_t)threads, sizeof(*pool->handles));
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int32_t worker = 1; worker < threads; worker++) {
        struct worker_start *start = sp_alloc_block(1, sizeof(*start));
        if (!start) {
            tn_pool_free(pool);
            return sp_fail(err, SP_ENOMEM, "worker pool");
        }
        *start = (struct worker_start){.pool = pool, .worker = worker};
        int rc = pthread_create(&pool->handles[worker - 1], NULL, worker_main, start);
        if (rc != 0) {
            sp_free_block(start);
            tn_pool_free(pool);
            return sp_fail_errno(err, rc, "worker %d of %d", worker, threads);
        }
        pool->started++;
    }
    *ret = pool;
    return SP_OK;
}

void tn_pool_free(struct tn_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    raise_job(pool);
    for (int32_t i = 0; i < pool->started; i++)
        pthread_join(pool->handles[i], NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->handles);
    sp_free_block(pool->ranges);
    sp_free_block(pool);
}

int32_t tn_pool_threads(const struct tn_pool *pool)
{
    return pool->threads;
}
