/* report: the data of a page about a run, and the page. One thread. */
#ifndef SPIN_COORDINATOR_SPINCTL_REPORT_H
#define SPIN_COORDINATOR_SPINCTL_REPORT_H

#include <jansson.h>

#include "common/base/buf.h"
#include "coordinator/spinctl/spinctl.h"

#define REPORT_PAIRS 5 /* of each iteration */

/* {"run", "settings", "data", "iterations": [{… as `spinctl iterations` says, "step_metrics": […],
 * "sampled_pairs": […], "timeline": {…}}], "checkpoints": [{… "provenance"}], "events": […],
 * "evaluations": […], "beside": {"run", "iterations"} or null}; a new reference. beside: another
 * run, or NULL. */
enum sp_err report_gather(struct ctl *ctl, const char *run, const char *beside, json_t **ret,
                          struct sp_error *err) SP_MUST_USE;
/* The page: HTML with everything in it. */
void report_html(const json_t *report, struct sp_buf *out);
/* report_parts.c: pieces of the page. */
void report_plots(const json_t *report, struct sp_buf *out);
void report_timeline(const json_t *report, struct sp_buf *out);
/* DIR/steps.csv and DIR/iterations.csv. */
enum sp_err report_csv(const json_t *report, const char *dir, struct sp_error *err) SP_MUST_USE;

#endif
