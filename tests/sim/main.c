/* sim: runs simulations of a cluster, one per seed, and compares each with an undisturbed one. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "tests/sim/sim.h"

/* Kinds of runs; seeds take turns. Three iterations let the first checkpoint go. */
static const struct {
    const char *settings;
    uint32_t iterations;
} kinds[] = {
    {NULL, 2},
    {"[train]\norder = gap\n", 2},
    {"[generate]\nsamples_per_prompt = 2\n", 2},
    {"[train]\norder = length\nreplay = none\n", 3},
    {"[run]\nmode = dpo\n", 3},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define MAX_JOBS 64

static const char *const plants[] = {"", "early-ack", "bias", "cursor", "expiry"};

struct arguments {
    uint64_t first, seeds;
    uint32_t jobs;
    bool trace;
    enum sim_plant plant;
};

static const struct argp_option options[] = {
    {"seeds", 'n', "N", 0, "How many seeds (default 100, or 1 with --seed)", 0},
    {"seed", 's', "SEED", 0, "The first one (default 1)", 0},
    {"jobs", 'j', "J", 0, "Processes (default 1)", 0},
    {"trace", 't', NULL, 0, "Print what happens", 0},
    {"plant", 'p', "BUG", 0, "Put in a bug, early-ack, bias, cursor or expiry, which must be found",
     0},
    {0},
};

static error_t parse_option(int key, char *value, struct argp_state *state)
{
    struct arguments *args = state->input;
    switch (key) {
    case 'n':
        args->seeds = strtoull(value, NULL, 10);
        return 0;
    case 's':
        args->first = strtoull(value, NULL, 10);
        return 0;
    case 'j':
        args->jobs = (uint32_t)strtoul(value, NULL, 10);
        if (args->jobs < 1 || args->jobs > MAX_JOBS)
            argp_error(state, "--jobs: 1 to %d", MAX_JOBS);
        return 0;
    case 'p':
        for (size_t i = 1; i < SP_COUNT(plants); i++) {
            if (strcmp(value, plants[i]) == 0)
                args->plant = (enum sim_plant)i;
        }
        if (args->plant == SIM_PLANT_NONE)
            argp_error(state, "no bug \"%s\"", value);
        return 0;
    case 't':
        args->trace = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static bool same(const struct sim_result *calm, const struct sim_result *result)
{
    bool equal = true;
    for (uint32_t i = 0; i < calm->iterations; i++) {
        if (!sp_digest_equal(&calm->pairs[i], &result->pairs[i])) {
            printf("iteration %u: other pairs than in the undisturbed run\n", i);
            equal = false;
        }
        if (!sp_digest_equal(&calm->checkpoints[i], &result->checkpoints[i])) {
            printf("iteration %u: another checkpoint than in the undisturbed run\n", i);
            equal = false;
        }
        if (strcmp(calm->verdicts[i], result->verdicts[i]) != 0) {
            printf("iteration %u: verdict %s, %s in the undisturbed run\n", i, result->verdicts[i],
                   calm->verdicts[i]);
            equal = false;
        }
    }
    return equal;
}

struct totals {
    uint64_t seeds, failed, events, fewest, deaths, lost, commits, power_losses, disk_errors,
        collections;
};

static void add(struct totals *to, const struct totals *from)
{
    to->seeds += from->seeds;
    to->failed += from->failed;
    to->events += from->events;
    to->fewest = SP_MIN(to->fewest, from->fewest);
    to->deaths += from->deaths;
    to->lost += from->lost;
    to->commits += from->commits;
    to->power_losses += from->power_losses;
    to->disk_errors += from->disk_errors;
    to->collections += from->collections;
}

static void run_seed(const struct arguments *args, const struct sim_result *calm, uint64_t seed,
                     struct totals *totals)
{
    struct sim_result result = {0};
    size_t kind = seed % KINDS;
    bool good = sim_run(seed, kinds[kind].settings, kinds[kind].iterations, false, args->trace,
                        args->plant, &result);
    if (good)
        good = same(&calm[kind], &result);
    if (!good)
        printf("seed %llu failed: repeat with --seed %llu --trace\n", (unsigned long long)seed,
               (unsigned long long)seed);
    struct totals one = {.seeds = 1,
                         .failed = !good,
                         .events = result.events,
                         .fewest = result.events,
                         .deaths = result.deaths,
                         .lost = result.lost_messages,
                         .commits = result.commits,
                         .power_losses = result.power_losses,
                         .disk_errors = result.disk_errors,
                         .collections = result.collections};
    add(totals, &one);
}

/* Every jobs-th seed; the totals go through the pipe. */
static void work(const struct arguments *args, uint32_t job, int to)
{
    struct totals totals = {.fewest = UINT64_MAX};
    struct sim_result calm[KINDS];
    for (size_t k = 0; k < KINDS; k++) {
        if (!sim_run(1, kinds[k].settings, kinds[k].iterations, true, false, SIM_PLANT_NONE,
                     &calm[k]))
            _exit(1);
    }
    uint64_t end = args->first + args->seeds;
    for (uint64_t seed = args->first + job; seed < end; seed += args->jobs) {
        run_seed(args, calm, seed, &totals);
        if (args->plant && totals.failed)
            break; /* found */
    }
    fflush(stdout);
    if (write(to, &totals, sizeof(totals)) != (ssize_t)sizeof(totals))
        _exit(1);
    _exit(0);
}

int main(int argc, char **argv)
{
    struct arguments args = {.first = 0, .seeds = 0, .jobs = 1};
    struct argp argp = {.options = options,
                        .parser = parse_option,
                        .doc = "Simulates a cluster whose processes die, whose network fails and "
                               "whose disk loses power."};
    if (argp_parse(&argp, argc, argv, 0, NULL, &args) != 0)
        return 2;
    if (args.seeds == 0)
        args.seeds = args.first ? 1 : 100;
    if (args.first == 0)
        args.first = 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sp_log_set_level(args.trace ? SP_LOG_INFO : SP_LOG_ERROR);
    struct totals totals = {.fewest = UINT64_MAX};
    int64_t start = sp_now_ms();
    int fds[2], status;
    if (pipe(fds) != 0)
        return 1;
    for (uint32_t job = 0; job < args.jobs; job++) {
        if (fork() == 0)
            work(&args, job, fds[1]);
    }
    close(fds[1]);
    for (struct totals one; read(fds[0], &one, sizeof(one)) == (ssize_t)sizeof(one);)
        add(&totals, &one);
    while (wait(&status) > 0)
        ;
    printf("%llu seeds, %llu failed; %llu events (at least %llu), %llu deaths, %llu of them with "
           "power, %llu messages lost, %llu commits, %llu disk errors, %llu collections, %.1f s\n",
           (unsigned long long)totals.seeds, (unsigned long long)totals.failed,
           (unsigned long long)totals.events, (unsigned long long)totals.fewest,
           (unsigned long long)totals.deaths, (unsigned long long)totals.power_losses,
           (unsigned long long)totals.lost, (unsigned long long)totals.commits,
           (unsigned long long)totals.disk_errors, (unsigned long long)totals.collections,
           (double)(sp_now_ms() - start) / 1000.0);
    return totals.failed == 0 && totals.seeds == args.seeds ? 0 : 1;
}
