/* tool: what the commands of spin-model share. One-shot use of the engine without a cluster; one
 * thread beside the backend's pool; blocks where it likes. */
#ifndef SPIN_SPIN_MODEL_TOOL_H
#define SPIN_SPIN_MODEL_TOOL_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/cli.h"
#include "common/base/err.h"
#include "common/tensor/backend.h"

/* Everything that the command line can say; zeroed, then filled by argp. */
struct tool {
    /* of every command */
    bool json;
    bool quiet;
    int64_t threads;     /* 0: all cores */
    const char *backend; /* "cpu" */
    const char *dir;     /* the first argument */
    /* tokenize */
    bool decode, special, skip_special, lines, pieces;
    /* info */
    bool tensors, digest;
    /* logprobs, render, generate */
    const char *input;      /* "-": standard input */
    const char *prompt;     /* "-": standard input */
    const char *prompt_ids; /* "1, 2, 3" */
    const char *system;
    const char *format;        /* of the input; NULL: recognized */
    const char *template_name; /* "auto": the model's own */
    double temperature, top_p;
    int64_t top_k, max_new_tokens, seed, samples;
    bool greedy;
    enum tn_dtype weights, activations, kv; /* of a decoder */
    const char *date;                       /* YYYY-MM-DD; NULL: none */
    /* init */
    const char *config, *tokenizer, *dtype;
    /* convert */
    const char *out;      /* the second argument */
    const char *to;       /* "gguf" or "hf"; NULL: by the name of what is written */
    const char *held_out; /* answers to score before and after, or NULL */
    /* bench */
    double bench_seconds;                      /* for each figure, at least */
    int64_t bench_repeats;                     /* of each figure, at least */
    int64_t bench_longest;                     /* tokens of the longest sequence */
    const char *bench_only;                    /* one of the parts; NULL: all */
    const char *bench_pairs, *bench_sequences; /* one figure of this shape; NULL: see bench.h */
    int64_t bench_rows;                        /* of a pass of a decoder; 0: its default */
    int64_t bench_micro;                       /* pairs of a micro-batch; 0: all of a step */
    const char *bench_state;                   /* of the optimizer: "f32" or "8bit" */
    bool bench_offload;                        /* the optimizer's state is in the host's memory */
    double bench_memory_gib;                   /* budget of a step; 0: no limit */
};

/* A command's whole work; SP_OK or an error with its message. */
typedef enum sp_err (*tool_command)(struct tool *tool, struct sp_error *err);
enum sp_err tool_info(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_tokenize(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_logprobs(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_generate(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_render(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_init(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_convert(struct tool *tool, struct sp_error *err) SP_MUST_USE;
enum sp_err tool_bench(struct tool *tool, struct sp_error *err) SP_MUST_USE;

/* The mean log-probability of the answers' tokens in a dataset, by the model in `dir`. */
enum sp_err tool_mean_logprob(const struct tool *tool, const char *dir, const char *input,
                              double *ret_mean, uint64_t *ret_tokens,
                              struct sp_error *err) SP_MUST_USE;

/* Everything from a file, or from standard input for "-". malloc'd, with a NUL behind. */
enum sp_err tool_read_all(const char *path, size_t max_bytes, char **ret, size_t *ret_length,
                          struct sp_error *err) SP_MUST_USE;
/* One line of compact JSON to standard output; takes the reference. */
enum sp_err tool_print_json(json_t *value, struct sp_error *err) SP_MUST_USE;
/* Bytes to standard output, at once. */
enum sp_err tool_print(const char *data, size_t length, struct sp_error *err) SP_MUST_USE;
/* The tokenizer's files into `dir`: those of a checkpoint directory but its configuration, or one
 * tokenizer.json. */
enum sp_err tool_copy_tokenizer(const char *from, const char *dir,
                                struct sp_error *err) SP_MUST_USE;
struct tok_ids;
/* Ids with any of spaces, commas and brackets between them, so that a JSON array is read too. */
enum sp_err tool_parse_ids(const char *text, size_t length, struct tok_ids *ret,
                           struct sp_error *err) SP_MUST_USE;
json_t *tool_ids_to_json(const int32_t *ids, size_t count);

#endif
