/* limits: the one table of everything that grows. A limit that a program checks is named here and
 * nowhere else; docs/operations.md prints this table. Bytes unless the name says otherwise. */
#ifndef SPIN_BASE_LIMITS_H
#define SPIN_BASE_LIMITS_H

/* name, value, what it bounds */
#define SP_LIMIT_LIST(X)                                                                           \
    X(SP_MAX_MESSAGE, 5 << 20, "a message on the wire")                                            \
    X(SP_MAX_DECODED_MESSAGE, 48 << 20, "the decoded form of a message")                           \
    X(SP_MAX_CHUNK, 4 << 20, "a chunk of a blob")                                                  \
    X(SP_MAX_MANIFEST, 4 << 20, "a manifest")                                                      \
    X(SP_MAX_MANIFEST_FILES, 4096, "files in a checkpoint")                                        \
    X(SP_MAX_JSON_DEPTH, 64, "nesting of a JSON document")                                         \
    X(SP_MAX_CONFIG_JSON, 1 << 20, "config.json, generation_config.json, a chat template")         \
    X(SP_MAX_TOKENIZER_CONFIG, 16 << 20, "tokenizer_config.json, special_tokens_map.json")         \
    X(SP_MAX_TOKENIZER_JSON, 256 << 20, "tokenizer.json")                                          \
    X(SP_MAX_TEXT, 64 << 20, "a text that is tokenized in one call")                               \
    X(SP_MAX_TEMPLATE_STEPS, 20000000, "steps of rendering a conversation by a chat template")     \
    X(SP_MAX_TEMPLATE_MEMORY, 256 << 20, "what rendering a conversation allocates")                \
    X(SP_MAX_TEMPLATE_OUTPUT, 64 << 20, "a text that a chat template makes")                       \
    X(SP_MAX_TEMPLATE_DEPTH, 100, "nesting of a chat template")                                    \
    X(SP_MAX_SAFETENSORS_HEADER, 100 << 20, "the header of a safetensors file")                    \
    X(SP_MAX_GGUF_KEYS, 65536, "metadata entries of a GGUF file")                                  \
    X(SP_MAX_GGUF_TOKEN, 4096, "a token of a GGUF file's vocabulary")                              \
    X(SP_MAX_TENSORS, 65536, "tensors in a checkpoint")                                            \
    X(SP_MAX_TENSOR_DIMS, 8, "dimensions of a tensor")                                             \
    X(SP_MAX_DATASET_LINE, 16 << 20, "a line of a dataset")                                        \
    X(SP_MAX_TASK_DATA, 256 << 20, "the problems of an evaluation task")                           \
    X(SP_MAX_DATASET_ROWS, 100000000, "rows of a dataset")                                         \
    X(SP_MAX_DATASET_COLUMNS, 4096, "columns of a CSV file")                                       \
    X(SP_MAX_ZSTD_WINDOW, 128 << 20, "what a zstd file may ask for to be decompressed")            \
    X(SP_MAX_INI_FILE, 1 << 20, "a configuration file")                                            \
    X(SP_MAX_MSGPACK_DEPTH, 16, "nesting of a message")                                            \
    X(SP_MAX_MSGPACK_OBJECTS, 2000000, "objects in a message")                                     \
    X(SP_MAX_SEQUENCE_TOKENS, 131072, "tokens of a prompt and its response")                       \
    X(SP_MAX_VOCAB, 1 << 20, "entries of a vocabulary")                                            \
    X(SP_MAX_LEASE_ITEMS, 1024, "items of one lease")                                              \
    X(SP_MAX_CLAIMED_ITEMS, 4096, "items that a worker keeps over a restart of the coordinator")   \
    X(SP_MAX_LISTED_LEASES, 16384, "leases that a worker names in a hello or a renewal")           \
    X(SP_MAX_SUBMIT_RESULTS, 1024, "results in one submission")                                    \
    X(SP_MAX_FETCH_PAIRS, 4096, "pairs in one fetch")                                              \
    X(SP_MAX_WORKERS, 20000, "workers known to a coordinator")                                     \
    X(SP_MAX_WORKER_ROWS, 20000, "workers that control.db keeps when a coordinator starts")        \
    X(SP_MAX_WORKER_NAMES, 200000, "names of workers in a coordinator's memory")                   \
    X(SP_MAX_PARKED_POLLS, 4096, "requests for work held open")                                    \
    X(SP_MAX_RUNS, 4096, "runs of a coordinator")                                                  \
    X(SP_MAX_RUN_NAME, 64, "characters of a run's name")                                           \
    X(SP_MAX_WORKER_NAME, 128, "characters of a worker's name")                                    \
    X(SP_MAX_LIST_ROWS, 1000, "rows of one page of a listing")                                     \
    X(SP_MAX_THREADS, 256, "compute threads of a process")                                         \
    X(SP_MAX_SLOTS, 1024, "sequences that a generator decodes at once")

#define SP_LIMIT_ENUM(name, value, what) name = (value),
enum sp_limit { SP_LIMIT_LIST(SP_LIMIT_ENUM) };
#undef SP_LIMIT_ENUM

#endif
