/* start-iteration, run and watch: starting iterations and showing how they get on. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/spinctl.h"

#define POLL_MS 1000
#define MAX_LINE 1024
#define BAR_CELLS 24

/* The newest iteration of a run, out of a status reply. */
struct view {
    json_t *reply; /* owned */
    const json_t *run, *iteration;
    int64_t number, version;
    const char *state;
};

static void view_clear(struct view *view)
{
    json_decref(view->reply);
    *view = (struct view){0};
}

/* Waits up to wait_ms for something newer than `since`. */
static enum sp_err look(struct ctl *ctl, const char *run, int64_t since, int64_t wait_ms,
                        struct view *ret, struct sp_error *err)
{
    json_t *args =
        json_pack("{s:I, s:I}", "since", (json_int_t)since, "wait_ms", (json_int_t)wait_ms);
    json_t *reply = NULL;
    enum sp_err rc = ctl_admin(ctl, "status", run, args, &reply, err);
    if (rc != SP_OK)
        return rc;
    view_clear(ret);
    ret->reply = reply;
    ret->version = ctl_integer(reply, "version", 0);
    ret->run = json_array_get(json_object_get(reply, "runs"), 0);
    ret->iteration = json_object_get(ret->run, "iteration");
    ret->number = ctl_integer(ret->iteration, "iteration", -1);
    ret->state = ctl_string(ret->iteration, "state", "none");
    return SP_OK;
}

static bool is_over(const char *state)
{
    return strcmp(state, "closed") == 0 || strcmp(state, "cancelled") == 0 ||
           strcmp(state, "failed") == 0 || strcmp(state, "none") == 0;
}

struct counter {
    double done, total, eta_s; /* eta_s < 0: not known */
};

/* The sets that are made while pairs are trained on, or after the checkpoint is published. */
static struct counter count_sets(const json_t *iteration, bool after)
{
    static const char *const names[] = {"holdout_player", "trained", "eval_greedy", "eval_sampled"};
    const json_t *sets = ctl_get(iteration, "generation.sets");
    struct counter counter = {.eta_s = -1};
    const char *name;
    json_t *set;
    json_object_foreach((json_t *)sets, name, set)
    {
        bool is_after = false;
        for (size_t i = 0; i < SP_COUNT(names); i++)
            is_after |= strcmp(name, names[i]) == 0;
        if (is_after == after) {
            counter.done += ctl_number(set, "done", 0);
            counter.total += ctl_number(set, "total", 0);
        }
    }
    return counter;
}

static struct counter count_steps(const json_t *iteration)
{
    return (struct counter){.done = ctl_number(iteration, "training.step", 0),
                            .total = ctl_number(iteration, "training.steps", 0),
                            .eta_s = ctl_number(iteration, "training.eta_s", -1)};
}

/* The live picture: as many lines as it has and the terminal has room for, none of them longer than
 * the terminal is wide, because a wrapped line would shift the next picture. */
struct picture {
    int columns, rows; /* of the terminal */
    int lines;         /* drawn so far in this picture */
};

static void picture_line(struct picture *picture, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void picture_line(struct picture *picture, const char *format, ...)
{
    char text[MAX_LINE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (picture->lines + 1 >= picture->rows)
        return;
    int column = 0;
    char *at = text;
    for (; *at; at++) {
        bool starts = ((unsigned char)*at & 0xC0) != 0x80;
        if (starts && column == picture->columns)
            break;
        column += starts;
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?'; /* names come from peers */
    }
    *at = '\0';
    printf("%s\x1b[K\n", text);
    picture->lines++;
}

static void measure(struct picture *picture)
{
    struct winsize size = {0};
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
    picture->columns = known ? size.ws_col : 80;
    picture->rows = known ? size.ws_row : 24;
}

static void bar(struct picture *picture, const char *label, struct counter counter,
                const char *unit)
{
    double share = counter.total > 0 ? SP_MIN(counter.done / counter.total, 1.0) : 0;
    char left[32] = "";
    if (counter.eta_s > 0 && counter.done < counter.total)
        sp_format_duration((int64_t)(1000 * counter.eta_s), left, sizeof(left));
    char cells[BAR_CELLS * 3 + 1] = "";
    for (int i = 0; i < BAR_CELLS; i++)
        strcat(cells, i < (int)(share * BAR_CELLS + 0.5) ? "█" : "░");
    picture_line(picture, "  %-11s %s %7.0f / %-7.0f %-6s %s%s", label, cells, counter.done,
                 counter.total, unit, left, left[0] ? " left" : "");
}

/* "0.6931", or "-" while it is not known */
static const char *figure(const json_t *object, const char *path, int decimals, char ret[32])
{
    double value = ctl_number(object, path, NAN);
    if (isnan(value))
        return "-";
    snprintf(ret, 32, "%.*f", decimals, value);
    return ret;
}

static void workers_lines(const json_t *reply, struct picture *picture)
{
    const json_t *workers = json_object_get(reply, "workers");
    for (size_t i = 0; i < json_array_size(workers); i++) {
        const json_t *worker = json_array_get(workers, i);
        if (!json_is_true(json_object_get(worker, "alive")))
            continue;
        picture_line(picture, "  %-16s %-10s %8.1f tokens/s %8lld results  %s",
                     ctl_string(worker, "name", "?"), ctl_string(worker, "role", ""),
                     ctl_number(worker, "tokens_per_s", 0),
                     (long long)ctl_integer(worker, "results", 0),
                     ctl_string(worker, "activity", ""));
    }
}

/* Draws over the last drawing; *lines is how many lines that was. */
static void draw(const struct view *view, const char *run, int *lines)
{
    struct picture picture = {0};
    char loss[32], margin[32], accuracy[32];
    measure(&picture);
    if (*lines > 0)
        printf("\x1b[%dA", *lines);
    if (view->number < 0)
        picture_line(&picture, "%s  no iteration yet: `spinctl start-iteration %s`", run, run);
    else
        picture_line(&picture, "%s  iteration %lld  %s  %s", run, (long long)view->number,
                     view->state, ctl_string(view->iteration, "reason", ""));
    struct counter generation = count_sets(view->iteration, false);
    generation.eta_s = ctl_number(view->iteration, "generation.eta_s", -1);
    bar(&picture, "generation", generation, "items");
    bar(&picture, "training", count_steps(view->iteration), "steps");
    bar(&picture, "evaluation", count_sets(view->iteration, true), "items");
    picture_line(&picture, "  %.1f tokens/s  %.1f pairs/s   loss %s  margin %s  accuracy %s",
                 ctl_number(view->iteration, "generation.tokens_per_s", 0),
                 ctl_number(view->iteration, "generation.pairs_per_s", 0),
                 figure(view->iteration, "training.loss", 4, loss),
                 figure(view->iteration, "training.margin", 4, margin),
                 figure(view->iteration, "training.accuracy", 3, accuracy));
    workers_lines(view->reply, &picture);
    printf("\x1b[J");
    fflush(stdout);
    *lines = picture.lines;
}

static void line(const struct view *view, const char *run)
{
    char loss[32], margin[32];
    struct counter generated = count_sets(view->iteration, false);
    struct counter steps = count_steps(view->iteration);
    struct counter evaluated = count_sets(view->iteration, true);
    if (view->number < 0)
        printf("%s: no iteration yet\n", run);
    else
        printf("%s iteration %lld %s: generated %.0f/%.0f, step %.0f/%.0f, loss %s, margin %s, "
               "evaluated %.0f/%.0f\n",
               run, (long long)view->number, view->state, generated.done, generated.total,
               steps.done, steps.total, figure(view->iteration, "training.loss", 4, loss),
               figure(view->iteration, "training.margin", 4, margin), evaluated.done,
               evaluated.total);
    fflush(stdout);
}

/* Shows the run until its iteration `number` is over or paused (number < 0: for ever), leaving the
 * last view in *view. A terminal gets a live picture, anything else a line when the state changes
 * or ten seconds have passed; with --json, `watch` prints each view as one line. */
static enum sp_err follow(struct ctl *ctl, const char *run, int64_t number, struct view *view,
                          struct sp_error *err)
{
    bool terminal = isatty(STDOUT_FILENO) && !ctl->quiet && !ctl->json;
    int lines = 0;
    int64_t said_ms = 0;
    char state[32] = "";
    for (int64_t since = 0;;) {
        enum sp_err rc = look(ctl, run, since, POLL_MS, view, err);
        if (rc != SP_OK)
            return rc;
        since = view->version;
        bool over = number >= 0 && (view->number > number || is_over(view->state) ||
                                    strcmp(view->state, "paused") == 0);
        bool changed = strcmp(state, view->state) != 0;
        if (terminal)
            draw(view, run, &lines);
        else if (!ctl->quiet && !ctl->json && (changed || sp_now_ms() - said_ms > 10000)) {
            line(view, run);
            said_ms = sp_now_ms();
        } else if (ctl->json && number < 0) {
            ctl_print_json(view->reply);
            fflush(stdout);
        }
        snprintf(state, sizeof(state), "%s", view->state);
        if (over || ctl->once)
            return SP_OK;
        sp_sleep_ms(terminal ? 200 : 50);
    }
}

static enum sp_err start(struct ctl *ctl, const char *run, int64_t number, json_t **ret,
                         struct sp_error *err)
{
    json_t *args =
        number >= 0 ? json_pack("{s:I}", "iteration", (json_int_t)number) : json_object();
    return ctl_admin(ctl, "start-iteration", run, args, ret, err);
}

int ctl_start_iteration(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    int64_t number = ctl->has_iteration ? ctl->iteration : -1;
    if (start(ctl, ctl->args[0], number, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    number = ctl_integer(reply, "iteration", number);
    if (ctl->json && !ctl->follow)
        ctl_print_json(reply);
    else if (!ctl->quiet && !ctl->json)
        printf("%s: iteration %lld is %s\n", ctl->args[0], (long long)number,
               ctl_string(reply, "state", "running"));
    json_decref(reply);
    if (!ctl->follow)
        return 0;
    struct view view = {0};
    enum sp_err rc = follow(ctl, ctl->args[0], number, &view, &err);
    if (rc == SP_OK && ctl->json)
        ctl_print_json(view.run);
    bool closed = rc == SP_OK && strcmp(view.state, "closed") == 0;
    view_clear(&view);
    return rc != SP_OK ? ctl_failed(&err) : closed ? 0 : sp_err_exit_code(SP_ESTATE);
}

/* Plateau counts when it comes twice in a row. */
static bool verdict_stops(const char *verdict, int *plateaus)
{
    *plateaus = strcmp(verdict, "plateau") == 0 ? *plateaus + 1 : 0;
    return *plateaus >= 2 || strcmp(verdict, "converged") == 0 || strcmp(verdict, "degraded") == 0;
}

/* One iteration from wherever it is to its end. *ret_stop: no further one should follow. */
static enum sp_err one_iteration(struct ctl *ctl, const char *run, int64_t wanted,
                                 bool stop_on_verdict, int *plateaus, bool *ret_stop,
                                 struct sp_error *err)
{
    struct view view = {0};
    json_t *reply = NULL;
    enum sp_err rc = start(ctl, run, wanted, &reply, err);
    json_decref(reply);
    if (rc == SP_OK)
        rc = follow(ctl, run, wanted, &view, err);
    if (rc == SP_OK && strcmp(view.state, "closed") != 0)
        rc = sp_fail(err, SP_ESTATE, "%s: iteration %lld is %s: %s", run, (long long)view.number,
                     view.state, ctl_string(view.iteration, "reason", "no reason given"));
    if (rc == SP_OK) {
        const char *verdict = ctl_string(view.iteration, "verdict", "undecided");
        *ret_stop = verdict_stops(verdict, plateaus) && stop_on_verdict;
        if (!ctl->quiet && !ctl->json)
            printf("%s: iteration %lld closed: %s\n", run, (long long)view.number, verdict);
    }
    view_clear(&view);
    return rc;
}

/* The verdicts that the run has already: whether the last one says stop, and plateaus at its end.
 */
static enum sp_err past_verdicts(struct ctl *ctl, const char *run, int *plateaus, bool *ret_stop,
                                 const char **ret_last, json_t **ret_reply, struct sp_error *err)
{
    enum sp_err rc = ctl_admin(ctl, "iterations", run, NULL, ret_reply, err);
    if (rc != SP_OK)
        return rc;
    const json_t *rows = json_object_get(*ret_reply, "iterations");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        if (strcmp(ctl_string(row, "state", ""), "closed") != 0)
            continue;
        *ret_last = ctl_string(row, "verdict", "undecided");
        *ret_stop = verdict_stops(*ret_last, plateaus);
    }
    return SP_OK;
}

static enum sp_err run_all(struct ctl *ctl, const char *run, struct sp_error *err)
{
    struct view view = {0};
    int plateaus = 0;
    bool stop = false;
    const char *last = "";
    json_t *past = NULL;
    enum sp_err rc = look(ctl, run, 0, 0, &view, err);
    if (rc == SP_OK)
        rc = past_verdicts(ctl, run, &plateaus, &stop, &last, &past, err);
    int64_t total = ctl->iterations ? ctl->iterations : ctl_integer(view.run, "iterations", 1);
    bool stops = !ctl->force && json_is_true(json_object_get(view.run, "stop_on_verdict"));
    bool closed = rc == SP_OK && strcmp(view.state, "closed") == 0;
    int64_t next = closed ? view.number + 1 : SP_MAX(view.number, 0);
    stop = stop && stops && closed;
    if (stop && next < total && !ctl->quiet)
        fprintf(stderr, "%s: iteration %lld closed: %s: no further one is started; --force does\n",
                run, (long long)view.number, last);
    view_clear(&view);
    json_decref(past);
    while (rc == SP_OK && next < total && !stop)
        rc = one_iteration(ctl, run, next++, stops, &plateaus, &stop, err);
    if (rc == SP_OK)
        rc = ctl_await_evaluations(ctl, run, NULL, "evaluations", err);
    return rc;
}

int ctl_run(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    if (run_all(ctl, ctl->args[0], &err) != SP_OK)
        return ctl_failed(&err);
    return ctl->quiet && !ctl->json ? 0 : ctl_iterations(ctl);
}

int ctl_watch(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    struct view view = {0};
    enum sp_err rc = follow(ctl, ctl->args[0], -1, &view, &err);
    view_clear(&view);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}
