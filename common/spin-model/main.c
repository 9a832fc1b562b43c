/* spin-model: looks into checkpoints, tokenizes, scores, generates, makes and converts models,
 * without any daemon. Options and prose stand in the table of commands below; `--help` shows them.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/limits.h"
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
    KEY_FORMAT,
    KEY_TEMPLATE,
    KEY_PROMPT_IDS,
    KEY_SYSTEM,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_SEED,
    KEY_SAMPLES,
    KEY_GREEDY,
    KEY_TOKENIZER,
    KEY_DTYPE,
    KEY_SECONDS,
    KEY_REPEATS,
    KEY_LONGEST,
    KEY_ONLY,
    KEY_TO,
    KEY_MESSAGES,
    KEY_DATE,
    KEY_HELD_OUT,
    KEY_WEIGHTS,
    KEY_ACTIVATIONS,
    KEY_KV,
    KEY_PAIRS,
    KEY_SEQUENCES,
    KEY_MICRO,
    KEY_MEMORY,
    KEY_STATE,
    KEY_OFFLOAD,
    KEY_ROWS,
};

/* What an option fills in. A key means the same in every command that has it. */
enum kind { FLAG, TEXT, WHOLE, REAL, TYPE };

static const struct setting {
    int key;
    const char *name;
    enum kind kind;
    size_t field;     /* of struct tool */
    int64_t min, max; /* of numbers */
} settings[] = {
#define FIELD(f) offsetof(struct tool, f)
    {KEY_JSON, "json", FLAG, FIELD(json)},
    {'q', "quiet", FLAG, FIELD(quiet)},
    {KEY_THREADS, "threads", WHOLE, FIELD(threads), 1, 256},
    {KEY_BACKEND, "backend", TEXT, FIELD(backend)},
    {KEY_TENSORS, "tensors", FLAG, FIELD(tensors)},
    {KEY_DIGEST, "digest", FLAG, FIELD(digest)},
    {KEY_DECODE, "decode", FLAG, FIELD(decode)},
    {KEY_SPECIAL, "special", FLAG, FIELD(special)},
    {KEY_SKIP_SPECIAL, "skip-special", FLAG, FIELD(skip_special)},
    {KEY_LINES, "lines", FLAG, FIELD(lines)},
    {KEY_TOKENS, "tokens", FLAG, FIELD(pieces)},
    {'i', "input", TEXT, FIELD(input)},
    {KEY_MESSAGES, "messages", TEXT, FIELD(input)},
    {KEY_FORMAT, "format", TEXT, FIELD(format)},
    {KEY_TEMPLATE, "template", TEXT, FIELD(template_name)},
    {KEY_DATE, "date", TEXT, FIELD(date)},
    {'p', "prompt", TEXT, FIELD(prompt)},
    {KEY_PROMPT_IDS, "prompt-ids", TEXT, FIELD(prompt_ids)},
    {KEY_SYSTEM, "system", TEXT, FIELD(system)},
    {'t', "temperature", REAL, FIELD(temperature), 0, 100},
    {KEY_TOP_K, "top-k", WHOLE, FIELD(top_k), 0, SP_MAX_VOCAB},
    {KEY_TOP_P, "top-p", REAL, FIELD(top_p), 0, 1},
    {'n', "max-new-tokens", WHOLE, FIELD(max_new_tokens), 1, SP_MAX_SEQUENCE_TOKENS},
    {KEY_SEED, "seed", WHOLE, FIELD(seed), 0, INT64_MAX},
    {KEY_SAMPLES, "samples", WHOLE, FIELD(samples), 1, SP_MAX_LEASE_ITEMS},
    {KEY_GREEDY, "greedy", FLAG, FIELD(greedy)},
    {KEY_WEIGHTS, "weights", TYPE, FIELD(weights)},
    {KEY_ACTIVATIONS, "activations", TYPE, FIELD(activations)},
    {KEY_KV, "kv", TYPE, FIELD(kv)},
    {'c', "config", TEXT, FIELD(config)},
    {KEY_TOKENIZER, "tokenizer", TEXT, FIELD(tokenizer)},
    {KEY_DTYPE, "dtype", TEXT, FIELD(dtype)},
    {KEY_TO, "to", TEXT, FIELD(to)},
    {KEY_HELD_OUT, "held-out", TEXT, FIELD(held_out)},
    {KEY_ONLY, "only", TEXT, FIELD(bench_only)},
    {KEY_LONGEST, "longest", WHOLE, FIELD(bench_longest), 2, INT32_MAX},
    {KEY_REPEATS, "repeats", WHOLE, FIELD(bench_repeats), 1, 100},
    {KEY_SECONDS, "seconds", REAL, FIELD(bench_seconds), 0, 3600},
    {KEY_PAIRS, "pairs", TEXT, FIELD(bench_pairs)},
    {KEY_SEQUENCES, "sequences", TEXT, FIELD(bench_sequences)},
    {KEY_ROWS, "rows", WHOLE, FIELD(bench_rows), 1, 65536},
    {KEY_MICRO, "micro", WHOLE, FIELD(bench_micro), 1, 1 << 20},
    {KEY_STATE, "optimizer-state", TEXT, FIELD(bench_state)},
    {KEY_OFFLOAD, "optimizer-offload", FLAG, FIELD(bench_offload)},
    {KEY_MEMORY, "memory", REAL, FIELD(bench_memory_gib), 0, 1 << 20},
#undef FIELD
};

static int64_t whole(struct argp_state *state, const struct setting *s, const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (*text == 0 || *end != 0 || errno != 0 || value < s->min || value > s->max)
        argp_error(state, "--%s: \"%s\" is not a whole number from %lld to %lld", s->name, text,
                   (long long)s->min, (long long)s->max);
    return value;
}

static double real(struct argp_state *state, const struct setting *s, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*text == 0 || *end != 0 || !(value >= (double)s->min && value <= (double)s->max))
        argp_error(state, "--%s: \"%s\" is not a number from %lld to %lld", s->name, text,
                   (long long)s->min, (long long)s->max);
    return value;
}

static enum tn_dtype type_of(struct argp_state *state, const struct setting *s, const char *text)
{
    if (strcmp(text, "f32") != 0 && strcmp(text, "bf16") != 0)
        argp_error(state, "--%s: \"%s\" is neither f32 nor bf16", s->name, text);
    return strcmp(text, "bf16") == 0 ? TN_BF16 : TN_F32;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    const struct setting *s = settings;
    while (s < settings + SP_COUNT(settings) && s->key != key)
        s++;
    if (s == settings + SP_COUNT(settings))
        return ARGP_ERR_UNKNOWN;
    char *tool = state->input;
    void *field = tool + s->field;
    switch (s->kind) {
    case FLAG:
        *(bool *)field = true;
        break;
    case TEXT:
        *(const char **)field = arg;
        break;
    case WHOLE:
        *(int64_t *)field = whole(state, s, arg);
        break;
    case REAL:
        *(double *)field = real(state, s, arg);
        break;
    case TYPE:
        *(enum tn_dtype *)field = type_of(state, s, arg);
        break;
    }
    return 0;
}

/* Commands with one argument. */
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
    return parse_option(key, arg, state);
}

/* Commands with two. */
static error_t parse_in_out(int key, char *arg, struct argp_state *state)
{
    struct tool *tool = state->input;
    if (key == ARGP_KEY_ARG && tool->out == NULL) {
        *(tool->dir == NULL ? &tool->dir : &tool->out) = arg;
        return 0;
    }
    if (key == ARGP_KEY_ARG)
        argp_error(state, "unexpected argument: %s", arg);
    if (key == ARGP_KEY_END && tool->out == NULL)
        argp_error(state, "%s is missing", tool->dir == NULL ? "IN" : "OUT");
    return parse_option(key, arg, state);
}

static const struct argp_option global_options[] = {
    {"json", KEY_JSON, NULL, 0, "Print JSON, one document a line"},
    {"quiet", 'q', NULL, 0, "No progress bars"},
    {"threads", KEY_THREADS, "N", 0,
     "Compute threads (default: all cores); results don't depend on it"},
    {"backend", KEY_BACKEND, "NAME", 0, "cpu (default), openblas, cuda or cuda-fp32"},
    {0},
};

/* What generators compute in, by the names of a run's settings. */
#define DECODER_OPTIONS                                                                            \
    {"weights", KEY_WEIGHTS, "TYPE", 0, "As [generate] weights of a run: f32 (default) or bf16"},  \
        {"activations", KEY_ACTIVATIONS, "TYPE", 0, "As [generate] activations"},                  \
    {                                                                                              \
        "kv", KEY_KV, "TYPE", 0, "As [generate] kv"                                                \
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

static int run_tokenize(void *context)
{
    return run(context, tool_tokenize);
}

/* ---- logprobs ---- */

static const struct argp_option logprobs_options[] = {
    {"input", 'i', "FILE", 0, "JSON lines with prompt and response; - is standard input"},
    {"format", KEY_FORMAT, "NAME", 0, "Format of the input (default: recognized by its fields)"},
    {"template", KEY_TEMPLATE, "NAME", 0, "Chat template: auto (the model's own), none, or a name"},
    {"date", KEY_DATE, "YYYY-MM-DD", 0, "Today, for templates that ask for it"},
    DECODER_OPTIONS,
    {0},
};

static int run_logprobs(void *context)
{
    return run(context, tool_logprobs);
}

/* ---- render ---- */

static const struct argp_option render_options[] = {
    {"messages", KEY_MESSAGES, "FILE", 0,
     "JSON: a list of messages, an object with messages and other variables of the template, or "
     "one "
     "of these a line; - is standard input"},
    {"template", KEY_TEMPLATE, "NAME", 0, "Chat template: auto (the model's own), none, or a name"},
    {"date", KEY_DATE, "YYYY-MM-DD", 0, "Today, for templates that ask for it"},
    {0},
};

static int run_render(void *context)
{
    return run(context, tool_render);
}

/* ---- generate ---- */

static const struct argp_option generate_options[] = {
    {"prompt", 'p', "TEXT", 0, "What the user says; - reads it from standard input"},
    {"prompt-ids", KEY_PROMPT_IDS, "IDS", 0, "The prompt as token ids, in place of --prompt"},
    {"system", KEY_SYSTEM, "TEXT", 0, "A system message before it"},
    {"template", KEY_TEMPLATE, "NAME", 0, "Chat template: auto (the model's own), none, or a name"},
    {"date", KEY_DATE, "YYYY-MM-DD", 0, "Today, for templates that ask for it"},
    {"temperature", 't', "T", 0, "Default 1; 0 is greedy"},
    {"top-k", KEY_TOP_K, "K", 0, "Sample among the K likeliest tokens (default 0: all)"},
    {"top-p", KEY_TOP_P, "P", 0, "Sample among the likeliest that sum to P (default 1: all)"},
    {"max-new-tokens", 'n', "N", 0, "Default 256"},
    {"seed", KEY_SEED, "N", 0, "Same seed, same text (default 0)"},
    {"samples", KEY_SAMPLES, "N", 0, "Answers to the prompt (default 1)"},
    {"greedy", KEY_GREEDY, NULL, 0, "The likeliest token always"},
    DECODER_OPTIONS,
    {0},
};

static int run_generate(void *context)
{
    return run(context, tool_generate);
}

/* ---- init ---- */

static const struct argp_option init_options[] = {
    {"config", 'c', "FILE", 0, "The config.json that gives the model's shape"},
    {"seed", KEY_SEED, "N", 0, "Same seed, same weights (default 0)"},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0, "Copy the tokenizer from this checkpoint or file"},
    {"dtype", KEY_DTYPE, "TYPE", 0, "Store F32, BF16 or F16 (default: what the config says)"},
    {0},
};

static int run_init(void *context)
{
    return run(context, tool_init);
}

/* ---- convert ---- */

static const struct argp_option convert_options[] = {
    {"to", KEY_TO, "FORMAT", 0, "gguf or hf (default: by the name of OUT)"},
    {"dtype", KEY_DTYPE, "TYPE", 0,
     "Store F32, F16, BF16 or, in GGUF, Q8_0 (default: as IN; F32 where it is quantized)"},
    {"tokenizer", KEY_TOKENIZER, "DIR", 0, "Take the tokenizer from this checkpoint, not from IN"},
    {"held-out", KEY_HELD_OUT, "FILE", 0,
     "Score these answers (a dataset) with IN and with OUT, and print what changed"},
    {0},
};

static int run_convert(void *context)
{
    return run(context, tool_convert);
}

/* ---- bench ---- */

static const struct argp_option bench_options[] = {
    {"only", KEY_ONLY, "PART", 0, "prefill (with scoring), decode or spin_step (default all)"},
    {"longest", KEY_LONGEST, "N", 0, "Tokens of the longest sequence (default 1024)"},
    {"repeats", KEY_REPEATS, "N", 0, "Of each figure, at least (default 5)"},
    {"seconds", KEY_SECONDS, "S", 0, "For each figure, at least (default 2)"},
    {"seed", KEY_SEED, "N", 0, "Of random weights and tokens (default 0)"},
    {"pairs", KEY_PAIRS, "PROMPT,REAL,GENERATED,COUNT", 0,
     "Just a SPIN step of COUNT pairs with these tokens"},
    {"micro", KEY_MICRO, "N", 0, "With --pairs: pairs of a micro-batch (default: all)"},
    {"memory", KEY_MEMORY, "GIB", 0, "With --pairs: what the step may take (default: no limit)"},
    {"optimizer-state", KEY_STATE, "TYPE", 0,
     "With --pairs: as [train] optimizer_state, f32 (default) or 8bit"},
    {"optimizer-offload", KEY_OFFLOAD, NULL, 0, "With --pairs: as [train] optimizer_offload"},
    {"sequences", KEY_SEQUENCES, "COUNT,PROMPT,NEW", 0,
     "Just decoding of COUNT sequences at once, NEW tokens each: after their prompts, and with "
     "them"},
    {"rows", KEY_ROWS, "N", 0, "With --sequences: of a pass, as a generator's rows_per_step"},
    DECODER_OPTIONS,
    {0},
};

static int run_bench(void *context)
{
    return run(context, tool_bench);
}

static const struct sp_cli_command commands[] = {
    {"info", "DIR", "Shape, weights and tokenizer of a checkpoint",
     "DIR is a checkpoint in Hugging Face layout: config.json, model.safetensors (or its shards), "
     "tokenizer.json. What is not there is left out.\n\n"
     "  spin-model info DIR --tensors\n",
     info_options, parse_dir, run_info},
    {"tokenize", "DIR", "Text on standard input to token ids, or back",
     "DIR holds a tokenizer.json, or is that file. The input is taken byte for byte: a newline at "
     "its end is part of the text.\n\n"
     "  printf 'Once upon a time' | spin-model tokenize DIR\n"
     "  echo 403 407 | spin-model tokenize DIR --decode\n",
     tokenize_options, parse_dir, run_tokenize},
    {"logprobs", "DIR", "Log-probabilities of given responses",
     "For each prompt and response of the input, rendered as in a run, one line of JSON: "
     "token_ids "
     "(both together), prompt_tokens (how many of them are the prompt's), logprobs (of the "
     "response's tokens, its end token included; natural logarithm) and their sum.\n\n"
     "  echo '{\"prompt\": \"Once upon\", \"response\": \" a time\"}' |\n"
     "      spin-model logprobs DIR --input -\n",
     logprobs_options, parse_dir, run_logprobs},
    {"render", "DIR", "Show a conversation as the chat template writes it",
     "Where the last message is the assistant's, it is the response and the rest the prompt. DIR "
     "needs a tokenizer.json and, for its own template, tokenizer_config.json or "
     "chat_template.jinja; no weights. With --json, for each conversation: text (what "
     "transformers' "
     "apply_chat_template gives), prompt, response, prompt_ids, response_ids, ids (both), "
     "loss_mask (1: counts), end_id; and refused, where it can't be trained on.\n\n"
     "  echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | spin-model render DIR --messages -\n",
     render_options, parse_dir, run_render},
    {"generate", "DIR", "Continue a prompt",
     "The text appears as it is made. With --json: prompt_ids, ids, text, finish (stop or length) "
     "and logprob, once the answer is complete. The answer depends on the weights, the prompt, "
     "the "
     "seed and the sampling options, not on threads or on --samples.\n\n"
     "  spin-model generate DIR --prompt 'Once upon a time' --temperature 0.7\n",
     generate_options, parse_dir, run_generate},
    {"init", "DIR", "Make a model with random weights",
     "DIR must not exist yet. Matrices are drawn from a normal distribution with the config's "
     "initializer_range, norms are 1.\n\n"
     "  spin-model init DIR --config config.json --seed 1 --tokenizer OTHER\n",
     init_options, parse_dir, run_init},
    {"convert", "IN OUT", "Between GGUF files and checkpoint directories, and data types",
     "A GGUF file of any of the families (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to "
     "Q6_K, IQ4_NL), or the first part of a split one, becomes a checkpoint directory: "
     "de-quantized weights, config.json, a tokenizer.json that gives the same ids, and the chat "
     "template. A directory becomes a GGUF file for llama.cpp, or another directory with another "
     "data type. OUT must not exist; it appears whole or not at all. Numbers that the chosen type "
     "can't hold are refused.\n\n"
     "  spin-model convert model.Q4_1.gguf model --dtype BF16\n"
     "  spin-model convert model model.gguf --dtype Q8_0\n"
     "  spin-model convert model smaller --dtype BF16 --held-out holdout.jsonl\n",
     convert_options, parse_in_out, run_convert},
    {"bench", "DIR", "Tokens per second of prefill, decoding and SPIN steps",
     "The median, lowest and highest of several repeats. Where DIR has a config.json and no "
     "weights, random ones are used: speed depends on the shape alone. They are a million numbers "
     "over and over, which takes seconds where a model of billions of parameters would take "
     "minutes to draw (as init does). A score or train batch is counted in tokens, a decode batch "
     "in sequences. --pairs and --sequences ask for one figure of a shape of your own, with the "
     "plan of its memory on standard error before any of it is taken; --weights is what the "
     "trainer stores with --pairs, and with --activations and --kv what --sequences decode in. The "
     "peak is the host's memory, on a device the device's.\n\n"
     "  spin-model bench DIR --threads 1\n"
     "  spin-model bench DIR --backend cuda --pairs 512,256,256,16 --micro 4\n"
     "  spin-model bench DIR --backend cuda --sequences 128,256,256 --weights bf16 --kv bf16\n",
     bench_options, parse_dir, run_bench},
};

int main(int argc, char **argv)
{
    struct tool tool = {.backend = "cpu",
                        .template_name = "auto",
                        .temperature = 1,
                        .top_p = 1,
                        .max_new_tokens = 256,
                        .samples = 1,
                        .bench_seconds = 2,
                        .bench_repeats = 5,
                        .bench_state = "f32",
                        .bench_longest = 1024};
    const struct sp_cli_program program = {
        .name = NAME,
        .summary = "Look into, score with, and generate from a model, without any daemon.",
        .options = global_options,
        .parse = parse_option,
        .commands = commands,
        .command_count = SP_COUNT(commands),
        .context = &tool,
    };
    return sp_cli_main(&program, argc, argv);
}
