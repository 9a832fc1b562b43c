/* spinctl: the administrator's command line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/config.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/task/settings.h"
#include "coordinator/spinctl/spinctl.h"
#include "proto/run_settings.h"

enum {
    OPT_JSON = 256,
    OPT_STATE_DIR,
    OPT_CONNECT,
    OPT_TOKEN_FILE,
    OPT_CA,
    OPT_CERT,
    OPT_SERVER_NAME,
    OPT_CONFIG,
    OPT_TIMEOUT,
    OPT_ITERATIONS,
    OPT_ITERATION,
    OPT_LIMIT,
    OPT_OFFSET,
    OPT_AFTER,
    OPT_FRESH,
    OPT_JSONL,
    OPT_SET,
    OPT_ROLE,
    OPT_NAME,
    OPT_RUNS,
    OPT_EXPIRES,
    OPT_FORCE,
    OPT_ONCE,
    OPT_EXAMPLE,
    OPT_DRY_RUN,
    OPT_MODEL,
    OPT_CSV,
    OPT_BESIDE,
    OPT_TASK,
    OPT_DATA,
    OPT_AGAINST,
    OPT_ITEMS,
    OPT_TASK_EXAMPLE,
    OPT_NO_WAIT,
};

static const struct argp_option global_options[] = {
    {"json", OPT_JSON, NULL, 0, "Print JSON, for scripts", 0},
    {"quiet", 'q', NULL, 0, "Print only errors and what was asked for", 0},
    {"state-dir", OPT_STATE_DIR, "DIR", 0,
     "State directory of a coordinator on this machine "
     "(environment: SPIN_STATE_DIR; default /var/lib/spin)",
     0},
    {"coordinator", OPT_CONNECT, "URL", 0, "ipc:///path or tls+tcp://host:port (SPIN_COORDINATOR)",
     0},
    {"token-file", OPT_TOKEN_FILE, "FILE", 0,
     "Token (SPIN_TOKEN_FILE; default admin.token in the "
     "state directory)",
     0},
    {"tls-ca", OPT_CA, "FILE", 0, "Authority of the coordinator's certificate", 0},
    {"tls-cert", OPT_CERT, "FILE", 0, "This client's certificate and key", 0},
    {"tls-server-name", OPT_SERVER_NAME, "NAME", 0, "DNS name in the coordinator's certificate", 0},
    {"config", OPT_CONFIG, "FILE", 0, "Settings (default /etc/spin/spinctl.conf)", 0},
    {"timeout", OPT_TIMEOUT, "SECONDS", 0,
     "How long to try (default 30, and 2 for a coordinator that "
     "does not answer at all)",
     0},
    {0},
};

static void replace(char **value, const char *with)
{
    free(*value);
    *value = sp_xstrdup(with);
}

static int64_t seconds(const char *arg, struct argp_state *state)
{
    char *end = NULL;
    double value = strtod(arg, &end);
    if (end == arg || *end != '\0' || !(value >= 0.1 && value <= 86400))
        argp_error(state, "--timeout: \"%s\" is not a number of seconds from 0.1 to 86400", arg);
    return (int64_t)(1000 * value);
}

static error_t parse_global(int key, char *arg, struct argp_state *state)
{
    struct ctl *ctl = state->input;
    switch (key) {
    case OPT_JSON:
        ctl->json = true;
        return 0;
    case 'q':
        ctl->quiet = true;
        sp_progress_enable(false);
        return 0;
    case OPT_STATE_DIR:
        replace(&ctl->settings.state_dir, arg);
        ctl->state_dir_given = true;
        return 0;
    case OPT_CONNECT:
        replace(&ctl->settings.url, arg);
        return 0;
    case OPT_TOKEN_FILE:
        replace(&ctl->settings.token_file, arg);
        return 0;
    case OPT_CA:
        replace(&ctl->settings.ca_file, arg);
        return 0;
    case OPT_CERT:
        replace(&ctl->settings.cert_file, arg);
        return 0;
    case OPT_SERVER_NAME:
        replace(&ctl->settings.server_name, arg);
        return 0;
    case OPT_CONFIG:
        ctl->config_path = arg;
        return 0;
    case OPT_TIMEOUT:
        ctl->settings.timeout_ms = seconds(arg, state);
        ctl->timeout_given = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int64_t number(const char *arg, const char *option, int64_t least, struct argp_state *state)
{
    int64_t value = 0;
    if (!ctl_whole(arg, &value) || value < least)
        argp_error(state, "--%s: \"%s\" is not a number from %d up", option, arg, (int)least);
    return value;
}

static error_t parse_number(struct ctl *ctl, int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_ITERATIONS:
        ctl->iterations = number(arg, "iterations", 1, state);
        return 0;
    case OPT_ITERATION:
        ctl->iteration = number(arg, "iteration", 0, state);
        ctl->has_iteration = true;
        return 0;
    case OPT_LIMIT:
        ctl->limit = number(arg, "limit", 1, state);
        return 0;
    case OPT_OFFSET:
        ctl->offset = number(arg, "offset", 0, state);
        return 0;
    case OPT_AFTER:
        ctl->after = number(arg, "after", 0, state);
        ctl->has_after = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_option(struct ctl *ctl, int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_FRESH:
        ctl->fresh = true;
        return 0;
    case 'f':
        ctl->follow = true;
        return 0;
    case OPT_JSONL:
        ctl->jsonl = true;
        return 0;
    case OPT_FORCE:
        ctl->force = true;
        return 0;
    case OPT_ONCE:
        ctl->once = true;
        return 0;
    case OPT_DRY_RUN:
        ctl->dry_run = true;
        return 0;
    case OPT_SET:
        ctl->set_name = arg;
        return 0;
    case OPT_ROLE:
        ctl->role = arg;
        return 0;
    case OPT_NAME:
        ctl->name = arg;
        return 0;
    case OPT_RUNS:
        ctl->runs = arg;
        return 0;
    case OPT_EXPIRES:
        ctl->expires = arg;
        return 0;
    case OPT_MODEL:
        ctl->model = arg;
        return 0;
    case OPT_CSV:
        ctl->csv = arg;
        return 0;
    case OPT_BESIDE:
        ctl->beside = arg;
        return 0;
    case OPT_TASK:
        if (ctl->task_count == (int)SP_COUNT(ctl->tasks))
            argp_error(state, "--task: at most %zu", SP_COUNT(ctl->tasks));
        ctl->tasks[ctl->task_count++] = arg;
        return 0;
    case OPT_DATA:
        ctl->data = arg;
        return 0;
    case OPT_AGAINST:
        ctl->against = arg;
        return 0;
    case OPT_ITEMS:
        ctl->items = arg;
        return 0;
    case 'o':
        ctl->out = arg;
        return 0;
    case OPT_NO_WAIT:
        ctl->no_wait = true;
        return 0;
    case 's':
        if (ctl->assignment_count == (int)SP_COUNT(ctl->assignments))
            argp_error(state, "--set: at most %zu", SP_COUNT(ctl->assignments));
        ctl->assignments[ctl->assignment_count++] = arg;
        return 0;
    default:
        return parse_number(ctl, key, arg, state);
    }
}

/* Every subcommand: `least` to `most` positional arguments. */
static error_t parse_any(int key, char *arg, struct argp_state *state, int least, int most)
{
    struct ctl *ctl = state->input;
    switch (key) {
    case OPT_EXAMPLE:
    case OPT_TASK_EXAMPLE: {
        struct sp_buf text = SP_BUF_INIT;
        sp_config_example(key == OPT_EXAMPLE ? &run_settings_spec : &task_settings_spec, &text);
        fputs(text.data, stdout);
        exit(0);
    }
    case ARGP_KEY_ARG:
        if (ctl->arg_count >= most)
            argp_error(state, "unexpected argument: %s", arg);
        ctl->args[ctl->arg_count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (ctl->arg_count < least)
            argp_error(state, "missing argument");
        return 0;
    case ARGP_KEY_ARGS:
    case ARGP_KEY_NO_ARGS:
    case ARGP_KEY_INIT:
    case ARGP_KEY_SUCCESS:
    case ARGP_KEY_ERROR:
    case ARGP_KEY_FINI:
        return ARGP_ERR_UNKNOWN;
    default:
        return parse_option(ctl, key, arg, state);
    }
}

#define PARSER(name, least, most)                                                                  \
    static error_t name(int key, char *arg, struct argp_state *state)                              \
    {                                                                                              \
        return parse_any(key, arg, state, least, most);                                            \
    }
PARSER(parse_0, 0, 0)
PARSER(parse_0_1, 0, 1)
PARSER(parse_1, 1, 1)
PARSER(parse_1_2, 1, 2)
PARSER(parse_2, 2, 2)

static const struct argp_option create_options[] = {
    {"set", 's', "NAME=VALUE", 0, "Override a setting of the file; may be repeated", 0},
    {"example", OPT_EXAMPLE, NULL, 0, "Print a run file with every setting explained", 0},
    {0},
};
static const struct argp_option dataset_options[] = {
    {"model", OPT_MODEL, "DIR", 0, "The model whose tokenizer and template count", 0},
    {"set", 's', "NAME=VALUE", 0, "A run setting, over those of --config; may be repeated", 0},
    {0},
};
static const struct argp_option report_options[] = {
    {"output", 'o', "FILE", 0, "Write the page here (default: RUN.html)", 0},
    {"csv", OPT_CSV, "DIR", 0, "Write steps.csv and iterations.csv into DIR, too", 0},
    {"beside", OPT_BESIDE, "RUN", 0, "Draw another run's evaluation as a line, to compare with", 0},
    {0},
};
static const struct argp_option start_options[] = {
    {"iteration", OPT_ITERATION, "N", 0,
     "The number expected: repeating the command then returns "
     "the same iteration",
     0},
    {"follow", 'f', NULL, 0, "Stay and show progress until it is over", 0},
    {0},
};
static const struct argp_option run_options[] = {
    {"iterations", OPT_ITERATIONS, "N", 0, "Iterations in all (default: the run's setting)", 0},
    {"force", OPT_FORCE, NULL, 0, "Do not stop at a verdict", 0},
    {0},
};
static const struct argp_option watch_options[] = {
    {"once", OPT_ONCE, NULL, 0, "Show the present state and leave", 0},
    {0},
};
static const struct argp_option reopen_options[] = {
    {"fresh", OPT_FRESH, NULL, 0, "Drop the pairs that the iteration has", 0},
    {0},
};
static const struct argp_option events_options[] = {
    {"after", OPT_AFTER, "ID", 0, "From the one after this one on (--json shows the ids)", 0},
    {"limit", OPT_LIMIT, "N", 0, "At most N, the newest unless --after is given (default 100)", 0},
    {"follow", 'f', NULL, 0, "Show all, stay and show new ones", 0},
    {0},
};
static const struct argp_option pairs_options[] = {
    {"iteration", OPT_ITERATION, "N", 0, "Of this iteration (default: the newest)", 0},
    {"set", OPT_SET, "SET", 0, "train (default), holdout, eval_greedy, eval_sampled, …", 0},
    {"jsonl", OPT_JSONL, NULL, 0, "One JSON object a line, all fields that pairs_sha256 covers", 0},
    {"offset", OPT_OFFSET, "N", 0, "Start at this position", 0},
    {"limit", OPT_LIMIT, "N", 0, "At most N (default 20; all with --json and --jsonl)", 0},
    {0},
};
static const struct argp_option steps_options[] = {
    {"iteration", OPT_ITERATION, "N", 0, "Of this iteration (default: the newest)", 0},
    {0},
};
static const struct argp_option token_options[] = {
    {"role", OPT_ROLE, "ROLE", 0, "admin, trainer, generator or readonly", 0},
    {"name", OPT_NAME, "NAME", 0, "For people", 0},
    {"runs", OPT_RUNS, "RUN,…", 0, "Only for these runs", 0},
    {"expires", OPT_EXPIRES, "TIME", 0, "Valid for so long: 30 d, 12 h", 0},
    {0},
};

static const struct argp_option gc_options[] = {
    {"dry-run", OPT_DRY_RUN, NULL, 0, "Say what would be let go of; change nothing", 0},
    {0},
};

static const char gc_details[] =
    "Lets go of the checkpoints of every run but the base, the newest (setting keep_last of the "
    "coordinator), the one that the next iteration starts from, those in use and those pinned. "
    "Their blobs, and what failed uploads have left, are deleted an hour later.";
static const char pin_details[] =
    "CHECKPOINT is a digest (eight characters or more), RUN for its newest one, or RUN:ITERATION.";
static const struct argp_option evaluate_options[] = {
    {"task", OPT_TASK, "TASK", 0, "Task file, or the name of an installed one; may be repeated", 0},
    {"data", OPT_DATA, "PATH", 0,
     "The task's problems, or the directory at which the paths in task files start", 0},
    {"limit", OPT_LIMIT, "N", 0, "The first N problems only", 0},
    {"against", OPT_AGAINST, "CHECKPOINT", 0, "Evaluate this one, too, and print the difference",
     0},
    {"items", OPT_ITEMS, "FILE", 0, "Write every problem with its score, as JSON Lines", 0},
    {"output", 'o', "PATH", 0, "Of a sheet: PATH.html and PATH.jsonl (default: sheet)", 0},
    {"no-wait", OPT_NO_WAIT, NULL, 0, "Ask for it and leave; the command without this waits", 0},
    {"example", OPT_TASK_EXAMPLE, NULL, 0, "Print a task file with every setting explained", 0},
    {0},
};

static const char evaluate_details[] =
    "CHECKPOINT is RUN for its newest one, RUN@ITERATION, RUN@base, or a digest (eight characters "
    "or more). Problems go to the generators as work; who dies on the way costs only time, and "
    "asking again shows what is there. `spinctl evaluate --example > my.conf` writes a task file "
    "with every setting explained. Of a sheet (MT-Bench) answers are written side by side, for "
    "people.";
static const char create_details[] =
    "FILE is an INI file; `spinctl create-run --example > run.conf` writes one with every setting "
    "explained. Base model and data go to the coordinator, which renders and tokenizes the data "
    "once. Paths in FILE start at FILE's directory.";
static const char dataset_details[] =
    "Reads FILE as create-run would and prints counts, lengths, what would be left out and why, "
    "duplicates, and three rendered examples with the loss mask. Needs no coordinator. --config "
    "names a run file here, whose data files are read unless FILE is given.";
static const char report_details[] = "One page that opens without a network: plots by step and by "
                                     "iteration, sampled pairs, settings "
                                     "and provenance. --json prints its data instead.";
static const char run_details[] =
    "Starts an iteration, follows it until its verdict, and goes on until the number of iterations "
    "is reached or the verdict is plateau (twice), converged or degraded; then waits for the "
    "evaluations of its checkpoints. Exit code 10: an iteration or an evaluation failed or was "
    "paused; `spinctl why RUN` tells more.";

static const struct sp_cli_command commands[] = {
    {"create-run", "FILE", "make a run from settings, base model and data", create_details,
     create_options, parse_1, ctl_create_run},
    {"dataset", "check [FILE]", "what create-run would make of a data set", dataset_details,
     dataset_options, parse_1_2, ctl_dataset},
    {"start-iteration", "RUN", "start the next iteration", NULL, start_options, parse_1,
     ctl_start_iteration},
    {"run", "RUN", "start and follow iterations until the verdict says stop", run_details,
     run_options, parse_1, ctl_run},
    {"watch", "RUN", "show progress live", NULL, watch_options, parse_1, ctl_watch},
    {"status", "[RUN]", "show runs and where they are", NULL, NULL, parse_0_1, ctl_status},
    {"why", "RUN", "what a run waits for, since when, on whom", NULL, NULL, parse_1, ctl_why},
    {"pause", "RUN", "pause the iteration; nothing is lost", NULL, NULL, parse_1, ctl_pause},
    {"resume", "RUN", "go on after a pause", NULL, NULL, parse_1, ctl_resume},
    {"retry", "RUN", "reopen a failed iteration with its plan and pairs", NULL, NULL, parse_1,
     ctl_retry},
    {"cancel", "RUN", "cancel the open iteration", NULL, NULL, parse_1, ctl_cancel},
    {"start", "RUN", "reopen a cancelled iteration", NULL, reopen_options, parse_1, ctl_start},
    {"skip", "RUN PROMPT", "take a prompt out of the plan", NULL, NULL, parse_2, ctl_skip},
    {"iterations", "RUN", "list iterations with their figures", NULL, NULL, parse_1,
     ctl_iterations},
    {"steps", "RUN", "list the optimizer steps of an iteration", NULL, steps_options, parse_1,
     ctl_steps},
    {"pairs", "RUN", "show human and generated answers side by side", NULL, pairs_options, parse_1,
     ctl_pairs},
    {"report", "RUN", "write a page about a run: plots, pairs, settings", report_details,
     report_options, parse_1, ctl_report},
    {"checkpoints", "[RUN]", "list checkpoints", NULL, NULL, parse_0_1, ctl_checkpoints},
    {"export", "CHECKPOINT DIR", "write a checkpoint as a Hugging Face directory",
     "CHECKPOINT is a digest (eight characters or more), RUN for its best one, or RUN:ITERATION.",
     NULL, parse_2, ctl_export},
    {"pin", "CHECKPOINT", "keep a checkpoint whatever gc does", pin_details, NULL, parse_1,
     ctl_pin},
    {"unpin", "CHECKPOINT", "let gc have a checkpoint again", pin_details, NULL, parse_1,
     ctl_unpin},
    {"gc", "", "let go of old checkpoints", gc_details, gc_options, parse_0, ctl_gc},
    {"evaluate", "CHECKPOINT", "put the problems of a task to a checkpoint", evaluate_details,
     evaluate_options, parse_1, ctl_evaluate},
    {"evaluations", "RUN", "list evaluations of a run's checkpoints", NULL, NULL, parse_1,
     ctl_evaluations},
    {"settings", "RUN", "show the settings of a run", NULL, NULL, parse_1, ctl_settings_command},
    {"events", "[RUN]", "list what happened", NULL, events_options, parse_0_1, ctl_events},
    {"workers", "", "list generators and trainers", NULL, NULL, parse_0, ctl_workers},
    {"priority", "RUN NUMBER", "runs of a higher priority get workers first (default 0)", NULL,
     NULL, parse_2, ctl_priority},
    {"cordon", "WORKER", "give a worker no more work", NULL, NULL, parse_1, ctl_cordon},
    {"drain", "WORKER", "the same, and give what it holds to others at once", NULL, NULL, parse_1,
     ctl_drain},
    {"quarantine", "WORKER", "the same, and make again what it made", NULL, NULL, parse_1,
     ctl_quarantine},
    {"uncordon", "WORKER", "give a worker work again", NULL, NULL, parse_1, ctl_uncordon},
    {"token", "create|list|revoke [ID]", "credentials of workers and people", NULL, token_options,
     parse_1_2, ctl_token},
    {"backup", "DIR", "copy databases and blobs into DIR, while running", NULL, NULL, parse_1,
     ctl_backup},
    {"restore", "DIR", "make --state-dir from a backup; no coordinator may run there", NULL, NULL,
     parse_1, ctl_restore},
    {"remove-run", "RUN", "take a run out of --state-dir; no coordinator may run there", NULL, NULL,
     parse_1, ctl_remove_run},
    {"doctor", "", "check the installation and say what to mend", NULL, NULL, parse_0, ctl_doctor},
};

int main(int argc, char **argv)
{
    struct ctl ctl = {0};
    ctl_settings_init(&ctl);
    struct sp_cli_program program = {
        .name = "spinctl",
        .summary = "Drives self-play fine-tuning: runs, iterations, pairs, checkpoints, workers.",
        .details = "Exit codes: 0 done, 2 wrong usage or argument, 4 not found, 10 not possible in "
                   "this state (or an iteration failed), 11 permission denied, 13 timed out; "
                   "spinctl(1) lists all.",
        .options = global_options,
        .parse = parse_global,
        .commands = commands,
        .command_count = SP_COUNT(commands),
        .context = &ctl,
    };
    sp_log_set_level(SP_LOG_ERROR); /* what goes wrong ends in one message, not in a log */
    int code = sp_cli_main(&program, argc, argv);
    ctl_close(&ctl);
    return code;
}
