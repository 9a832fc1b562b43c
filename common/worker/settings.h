/* settings: what generators and trainers have in common: how to reach the coordinator, who they are
 * and where they keep weights; and the command line that both understand.
 *
 * A program embeds struct worker_settings in its own struct and puts WORKER_SETTINGS at the head of
 * its table. Main thread only. */
#ifndef SPIN_WORKER_SETTINGS_H
#define SPIN_WORKER_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/config.h"
#include "common/base/err.h"
#include "common/base/limits.h"

struct worker_settings {
    /* [coordinator] */
    char *url;        /* ipc:///… or tls+tcp://host:port; "" until worker_settings_finish */
    char *token_file; /* "id.secret" on one line; "": STATE_DIR/ROLE.token */
    char *tls_ca, *tls_cert, *tls_server_name;
    int64_t connect_ms, request_ms, backoff_min_ms, backoff_max_ms;
    /* [worker] */
    char *name; /* stable over restarts; "" until worker_settings_finish */
    char *state_dir;
    char *log_level;
    /* [weights] */
    char *cache_dir;           /* shared by the workers of one machine; "": STATE_DIR/cache */
    int64_t cache_limit_bytes; /* 0: none */
    bool peers;                /* also from other workers */
    int64_t peer_ms;           /* one of them has so long for a chunk */
    /* [compute] */
    char *backend;
    char *module_path; /* folder of the backends that are modules; "": as installed */
    bool batch_invariant;
    int64_t threads; /* 0: all cores */
};

#define WORKER_SETTINGS(type, member, default_name)                                                \
    {"coordinator",                                                                                \
     "url",                                                                                        \
     SP_SET_STR,                                                                                   \
     offsetof(type, member.url),                                                                   \
     "",                                                                                           \
     0,                                                                                            \
     0,                                                                                            \
     "",                                                                                           \
     "",                                                                                           \
     "Where the coordinator listens: ipc:///PATH or tls+tcp://HOST:PORT; empty: "                  \
     "coordinator.sock in the state directory."},                                                  \
        {"coordinator",                                                                            \
         "token_file",                                                                             \
         SP_SET_STR,                                                                               \
         offsetof(type, member.token_file),                                                        \
         "",                                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "File with this worker's token; empty: generator.token or trainer.token in the state "    \
         "directory."},                                                                            \
        {"coordinator",                                                                            \
         "tls_ca",                                                                                 \
         SP_SET_STR,                                                                               \
         offsetof(type, member.tls_ca),                                                            \
         "",                                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "PEM file of the authority that signed the coordinator's certificate."},                  \
        {"coordinator",                                                                            \
         "tls_cert",                                                                               \
         SP_SET_STR,                                                                               \
         offsetof(type, member.tls_cert),                                                          \
         "",                                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "PEM file with this worker's certificate and key."},                                      \
        {"coordinator",                                                                            \
         "tls_server_name",                                                                        \
         SP_SET_STR,                                                                               \
         offsetof(type, member.tls_server_name),                                                   \
         "",                                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "DNS name that the coordinator's certificate must have."},                                \
        {"coordinator",                                                                            \
         "connect_timeout",                                                                        \
         SP_SET_MS,                                                                                \
         offsetof(type, member.connect_ms),                                                        \
         "5 s",                                                                                    \
         1,                                                                                        \
         600000,                                                                                   \
         "ms",                                                                                     \
         "",                                                                                       \
         "Longest time to wait for a connection."},                                                \
        {"coordinator",                                                                            \
         "request_timeout",                                                                        \
         SP_SET_MS,                                                                                \
         offsetof(type, member.request_ms),                                                        \
         "30 s",                                                                                   \
         10,                                                                                       \
         600000,                                                                                   \
         "ms",                                                                                     \
         "",                                                                                       \
         "Longest time to wait for an answer."},                                                   \
        {"coordinator",                                                                            \
         "backoff_min",                                                                            \
         SP_SET_MS,                                                                                \
         offsetof(type, member.backoff_min_ms),                                                    \
         "200 ms",                                                                                 \
         1,                                                                                        \
         600000,                                                                                   \
         "ms",                                                                                     \
         "",                                                                                       \
         "First pause before a request is sent again."},                                           \
        {"coordinator",                                                                            \
         "backoff_max",                                                                            \
         SP_SET_MS,                                                                                \
         offsetof(type, member.backoff_max_ms),                                                    \
         "10 s",                                                                                   \
         1,                                                                                        \
         600000,                                                                                   \
         "ms",                                                                                     \
         "",                                                                                       \
         "Longest pause before a request is sent again."},                                         \
        {"worker",                                                                                 \
         "name",                                                                                   \
         SP_SET_STR,                                                                               \
         offsetof(type, member.name),                                                              \
         default_name,                                                                             \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "Name of this worker, stable over restarts; empty: the role and the host's name."},       \
        {"worker",                                                                                 \
         "state_dir",                                                                              \
         SP_SET_STR,                                                                               \
         offsetof(type, member.state_dir),                                                         \
         "/var/lib/spin",                                                                          \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "Directory for what the worker keeps."},                                                  \
        {"worker", "log_level", SP_SET_STR, offsetof(type, member.log_level), "info", 0,           \
         0,        "",          "",         "debug, info, warn or error."},                        \
        {"weights",                                                                                \
         "cache_dir",                                                                              \
         SP_SET_STR,                                                                               \
         offsetof(type, member.cache_dir),                                                         \
         "",                                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "Directory of downloaded checkpoints, shared by the workers of a machine; empty: cache "  \
         "in "                                                                                     \
         "the state directory."},                                                                  \
        {"weights",    "cache_limit",                                                              \
         SP_SET_BYTES, offsetof(type, member.cache_limit_bytes),                                   \
         "0",          0,                                                                          \
         1e18,         "bytes",                                                                    \
         "",           "Largest size of the cache; unused checkpoints go first; 0: no limit."},    \
        {"weights",                                                                                \
         "peers",                                                                                  \
         SP_SET_BOOL,                                                                              \
         offsetof(type, member.peers),                                                             \
         "yes",                                                                                    \
         0,                                                                                        \
         1,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "Fetch weights also from generators that serve them, not from the coordinator alone."},   \
        {"weights", "peer_timeout",                                                                \
         SP_SET_MS, offsetof(type, member.peer_ms),                                                \
         "20 s",    10,                                                                            \
         600000,    "ms",                                                                          \
         "",        "A generator that has not sent a chunk (4 MiB) in this time is left alone."},  \
        {"compute",                                                                                \
         "backend",                                                                                \
         SP_SET_STR,                                                                               \
         offsetof(type, member.backend),                                                           \
         "cpu",                                                                                    \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "Backend: cpu, openblas, cuda or cuda-fp32. A run takes only workers of its own."},       \
        {"compute",                                                                                \
         "module_path",                                                                            \
         SP_SET_STR,                                                                               \
         offsetof(type, member.module_path),                                                       \
         "",                                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "Folder of spin-cuda.so; empty: SPIN_MODULE_PATH of the environment, else where it was "  \
         "installed."},                                                                            \
        {"compute",                                                                                \
         "batch_invariant",                                                                        \
         SP_SET_BOOL,                                                                              \
         offsetof(type, member.batch_invariant),                                                   \
         "yes",                                                                                    \
         0,                                                                                        \
         1,                                                                                        \
         "",                                                                                       \
         "",                                                                                       \
         "In cuda: a sequence's numbers do not depend on what else is computed beside it. no: "    \
         "products may be faster, results are not reproducible; all workers of a run say the "     \
         "same."},                                                                                 \
    {                                                                                              \
        "compute", "threads", SP_SET_I64, offsetof(type, member.threads), "0", 0, SP_MAX_THREADS,  \
            "threads", "", "Threads that compute; 0: all cores of the machine."                    \
    }

/* Fills what follows from other settings (url, name, cache_dir, token_file) and checks the rest.
 * role: "generator", "trainer". */
enum sp_err worker_settings_finish(struct worker_settings *settings, const char *role,
                                   struct sp_error *err) SP_MUST_USE;
/* The token in the file (after worker_settings_finish), malloc'd. */
enum sp_err worker_read_token(const struct worker_settings *settings, char **ret,
                              struct sp_error *err) SP_MUST_USE;

/* Parses the command line of a worker into *values: what common/base/daemon_cli.h has, and
 * --state-dir DIR, --coordinator URL, --token-file FILE, --name NAME. SP_OK: go on. SP_ECANCELED:
 * something was printed, exit with 0. */
struct worker_program {
    const char *name; /* "spin-generator" */
    const char *doc;  /* one paragraph for --help */
    const struct sp_config_spec *spec;
};
enum sp_err worker_parse_args(const struct worker_program *program, int argc, char **argv,
                              void *values, struct sp_error *err) SP_MUST_USE;

#endif
