/* sim: runs simulations of a cluster, one per seed, and compares each with an undisturbed one. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "tests/sim/sim.h"

/* Kinds of runs; seeds take turns. */
static const char *const kinds[] = {
    NULL,
    "[train]\norder = gap\n",
    "[train]\norder = length\nreplay = none\n",
    "[run]\nmode = dpo\n",
    "[generate]\nsamples_per_prompt = 2\n",
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct arguments {
    uint64_t first, seeds;
    bool trace;
    enum sim_plant plant;
};

static const struct argp_option options[] = {
    {"seeds", 'n', "N", 0, "How many seeds (default 100)", 0},
    {"first", 'f', "SEED", 0, "The first one (default 1)", 0},
    {"trace", 't', NULL, 0, "Print what happens", 0},
    {"plant", 'p', "BUG", 0, "Put in a bug, early-ack or bias, which must be found", 0},
    {0},
};

static error_t parse_option(int key, char *value, struct argp_state *state)
{
    struct arguments *args = state->input;
    switch (key) {
    case 'n':
        args->seeds = strtoull(value, NULL, 10);
        return 0;
    case 'f':
        args->first = strtoull(value, NULL, 10);
        return 0;
    case 'p':
        if (strcmp(value, "early-ack") != 0 && strcmp(value, "bias") != 0)
            argp_error(state, "no bug \"%s\"", value);
        args->plant = value[0] == 'b' ? SIM_PLANT_BIAS : SIM_PLANT_EARLY_ACK;
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
    for (int i = 0; i < SIM_ITERATIONS; i++) {
        if (!sp_digest_equal(&calm->pairs[i], &result->pairs[i])) {
            printf("iteration %d: other pairs than in the undisturbed run\n", i);
            equal = false;
        }
        if (!sp_digest_equal(&calm->checkpoints[i], &result->checkpoints[i])) {
            printf("iteration %d: another checkpoint than in the undisturbed run\n", i);
            equal = false;
        }
        if (strcmp(calm->verdicts[i], result->verdicts[i]) != 0) {
            printf("iteration %d: verdict %s, %s in the undisturbed run\n", i, result->verdicts[i],
                   calm->verdicts[i]);
            equal = false;
        }
    }
    return equal;
}

int main(int argc, char **argv)
{
    struct arguments args = {.first = 1, .seeds = 100};
    struct argp argp = {.options = options, .parser = parse_option,
                        .doc = "Simulates a cluster whose processes die and whose network fails."};
    if (argp_parse(&argp, argc, argv, 0, NULL, &args) != 0)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sp_log_set_level(SP_LOG_ERROR);
    struct sim_result calm[KINDS];
    for (size_t k = 0; k < KINDS; k++) {
        if (!sim_run(1, kinds[k], true, args.trace && args.seeds == 0,
                     SIM_PLANT_NONE, &calm[k]))
            return 1;
    }
    uint64_t failed = 0, deaths = 0, lost = 0, commits = 0;
    int64_t start = sp_now_ms();
    for (uint64_t seed = args.first; seed < args.first + args.seeds; seed++) {
        struct sim_result result;
        size_t kind = seed % KINDS;
        bool good = sim_run(seed, kinds[kind], false, args.trace, args.plant, &result);
        if (good)
            good = same(&calm[kind], &result);
        if (!good) {
            printf("seed %llu failed: repeat with --first %llu --seeds 1 --trace\n",
                   (unsigned long long)seed, (unsigned long long)seed);
            failed++;
        }
        deaths += result.deaths;
        lost += result.lost_messages;
        commits += result.commits;
    }
    printf("%llu seeds, %llu failed; %llu deaths, %llu messages lost, %llu commits, %.1f s\n",
           (unsigned long long)args.seeds, (unsigned long long)failed, (unsigned long long)deaths,
           (unsigned long long)lost, (unsigned long long)commits,
           (double)(sp_now_ms() - start) / 1000.0);
    return failed == 0 ? 0 : 1;
}
