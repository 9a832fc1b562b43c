/* spin-model: looks into checkpoints, tokenizes, scores, generates and makes models, without any
 * daemon. Options and prose stand in the table of commands below; `--help` shows them. */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/spin-model/tool.h"

#define NAME "spin-model"

enum {
    KEY_JSON = 0x100,
    KEY_THREADS,
    KEY_BACKEND,
    KEY_DECODE,
    KEY_SPECIAL,
    KEY_SKIP_SPECIAL,
    KEY_LINES,
    KEY_TOKENS,
    KEY_TENSORS,
    KEY_DIGEST,
};

static int64_t whole(struct argp_state *state, const char *option, const char *text, int64_t min,
                     int64_t max)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (*text == 0 || *end != 0 || value < min || value > max)
        argp_error(state, "--%s: \"%s\" is not a whole number from %lld to %lld", option, text,
                   (long long)min, (long long)max);
    return value;
}

/* ---- options of every command ---- */

static const struct argp_option global_options[] = {
    {"json", KEY_JSON, NULL, 0, "Print JSON, one document a line"},
    {"quiet", 'q', NULL, 0, "No progress bars"},
    {"threads", KEY_THREADS, "N", 0,
     "Compute threads (default: all cores); results don't depend on it"},
    {"backend", KEY_BACKEND, "NAME", 0, "cpu (default) or openblas"},
    {0},
};

static error_t parse_global(int key, char *arg, struct argp_state *state)
{
    struct tool *tool = state->input;
    switch (key) {
    case KEY_JSON:
        tool->json = true;
        return 0;
    case 'q':
        tool->quiet = true;
        return 0;
    case KEY_THREADS:
        tool->threads = whole(state, "threads", arg, 1, 256);
        return 0;
    case KEY_BACKEND:
        tool->backend = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The one argument that every command has. */
static error_t parse_dir(int key, char *arg, struct argp_state *state)
{
    struct tool *tool = state->input;
    if (key == ARGP_KEY_ARG && tool->dir == NULL) {
        tool->dir = arg;
        return 0;
    }
    if (key == ARGP_KEY_ARG)
        argp_error(state, "unexpected argument: %s", arg);
    if (key == ARGP_KEY_END && tool->dir == NULL)
        argp_error(state, "DIR is missing");
    return ARGP_ERR_UNKNOWN;
}

static int run(struct tool *tool, tool_command command)
{
    struct sp_error err = {0};
    sp_progress_enable(!tool->quiet);
    enum sp_err rc = command(tool, &err);
    return rc == SP_OK ? EXIT_SUCCESS : sp_cli_fail(NAME, &err);
}

/* ---- info ---- */

static const struct argp_option info_options[] = {
    {"tensors", KEY_TENSORS, NULL, 0, "List every tensor with its type and shape"},
    {"digest", KEY_DIGEST, NULL, 0, "Compute the checkpoint's SHA-256 (reads every byte)"},
    {0},
};

static error_t parse_info(int key, char *arg, struct argp_state *state)
{
    struct tool *tool = state->input;
    switch (key) {
    case KEY_TENSORS:
        tool->tensors = true;
        return 0;
    case KEY_DIGEST:
        tool->digest = true;
        return 0;
    default:
        return parse_dir(key, arg, state);
    }
}

static int run_info(void *context)
{
    return run(context, tool_info);
}

/* ---- tokenize ---- */

static const struct argp_option tokenize_options[] = {
    {"decode", KEY_DECODE, NULL, 0, "Ids on standard input, text out"},
    {"special", KEY_SPECIAL, NULL, 0, "Add the tokens that the tokenizer puts around a text (BOS)"},
    {"skip-special", KEY_SKIP_SPECIAL, NULL, 0, "With --decode: leave special tokens out"},
    {"lines", KEY_LINES, NULL, 0, "Each line of the input is a text (or a list of ids) of its own"},
    {"tokens", KEY_TOKENS, NULL, 0, "Show the tokens beside their ids"},
    {0},
};

static error_t parse_tokenize(int key, char *arg, struct argp_state *state)
{
    struct tool *tool = state->input;
    switch (key) {
    case KEY_DECODE:
        tool->decode = true;
        return 0;
    case KEY_SPECIAL:
        tool->special = true;
        return 0;
    case KEY_SKIP_SPECIAL:
        tool->skip_special = true;
        return 0;
    case KEY_LINES:
        tool->lines = true;
        return 0;
    case KEY_TOKENS:
        tool->pieces = true;
        return 0;
    default:
        return parse_dir(key, arg, state);
    }
}

static int run_tokenize(void *context)
{
    return run(context, tool_tokenize);
}

static const struct sp_cli_command commands[] = {
    {"info", "DIR", "Shape, weights and tokenizer of a checkpoint",
     "DIR is a checkpoint in Hugging Face layout: config.json, model.safetensors (or its shards),\n"
     "tokenizer.json. What is not there is left out.\n\n"
     "  spin-model info DIR --tensors\n",
     info_options, parse_info, run_info},
    {"tokenize", "DIR", "Text on standard input to token ids, or back",
     "DIR holds a tokenizer.json, or is that file. The input is taken byte for byte: a newline at\n"
     "its end is part of the text.\n\n"
     "  printf 'Once upon a time' | spin-model tokenize DIR\n"
     "  echo 403 407 | spin-model tokenize DIR --decode\n",
     tokenize_options, parse_tokenize, run_tokenize},
};

int main(int argc, char **argv)
{
    struct tool tool = {.backend = "cpu"};
    const struct sp_cli_program program = {
        .name = NAME,
        .summary = "Look into, score with, and generate from a model, without any daemon.",
        .options = global_options,
        .parse = parse_global,
        .commands = commands,
        .command_count = SP_COUNT(commands),
        .context = &tool,
    };
    return sp_cli_main(&program, argc, argv);
}
