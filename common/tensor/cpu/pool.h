/* pool: the backend's worker threads. The calling thread is worker 0 and works too. Tasks of a job
 * are taken one by one from a shared counter, or each worker takes those of its own range first and
 * then what is left of the others'; so which worker runs which task varies from run to run: tasks
 * must write disjoint outputs, whose bits then depend on nothing but the task.
 *
 * Between jobs workers spin for some microseconds, then sleep; they don't spin at all when the
 * process has fewer cores than threads. Memory written before tn_pool_run is seen by the tasks, and
 * what they wrote by the caller after it. One thread at a time calls a pool. */
#ifndef SPIN_TENSOR_POOL_H
#define SPIN_TENSOR_POOL_H

#include <stdint.h>

#include "common/base/err.h"

struct tn_pool;

typedef void tn_task_fn(void *context, int32_t task, int32_t worker);

enum sp_err tn_pool_new(int32_t threads, struct tn_pool **ret, struct sp_error *err) SP_MUST_USE;
void tn_pool_free(struct tn_pool *pool); /* joins the workers; NULL is fine */
int32_t tn_pool_threads(const struct tn_pool *pool);
/* Runs task 0 … tasks-1 and returns when all are done. */
void tn_pool_run(struct tn_pool *pool, int32_t tasks, tn_task_fn *run, void *context);
/* The same, worker w of n beginning with tasks [w·tasks/n, (w+1)·tasks/n): for jobs that follow
 * each other over the same rows, which then stay in the cache of one core. */
void tn_pool_run_near(struct tn_pool *pool, int32_t tasks, tn_task_fn *run, void *context);
/* Cores that this process may run on. */
int32_t tn_pool_cores(void);

#endif
