#include "tests/e2e/harness.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#define ARGS_MAX 48
#define OUTPUT_MAX (64u << 20)
#define COORDINATOR_WAIT_MS 30000
#define END_WAIT_MS 30000
#define POLL_MS 20
#define CREEP_SLICE_MS 15
#define CREEP_WAIT_MS 60000

/* ---- processes ---- */

/* argv[0] is a path below the build root. stdout goes to out_fd, stderr to the log. */
static pid_t spawn(struct cluster *cluster, const char *log, int out_fd, const char *const *argv)
{
    char path[512], log_path[512];
    snprintf(path, sizeof(path), "%s/%s", SPIN_BUILD_ROOT, argv[0]);
    snprintf(log_path, sizeof(log_path), "%s/%s.log", cluster->dir, log);
    pid_t parent = getpid();
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing outlives the test */
    if (getppid() != parent)
        _exit(126);
    int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(out_fd >= 0 ? out_fd : fd, 1);
    dup2(fd, 2);
    if (chdir(cluster->dir) == 0)
        execv(path, (char *const *)(uintptr_t)argv);
    dprintf(2, "%s: %s\n", path, strerror(errno));
    _exit(127);
}

int cluster_end(pid_t *pid, int signal_number)
{
    int status = 0;
    if (*pid == 0)
        return 0;
    kill(*pid, signal_number);
    int64_t end_ms = sp_now_ms() + END_WAIT_MS;
    pid_t done;
    while ((done = waitpid(*pid, &status, WNOHANG)) == 0 && sp_now_ms() < end_ms)
        sp_sleep_ms(2);
    if (done == 0)
        kill(*pid, SIGKILL);
    ck_assert_msg(done == *pid, "process %d did not end on signal %d", (int)*pid, signal_number);
    *pid = 0;
    return status;
}

static int run_and_read(struct cluster *cluster, const char *const *argv, struct sp_buf *out)
{
    int fds[2], status = 0;
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = spawn(cluster, "commands", fds[1], argv);
    close(fds[1]);
    char chunk[65536];
    ssize_t n;
    while ((n = read(fds[0], chunk, sizeof(chunk))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0)
            sp_buf_append(out, chunk, (size_t)n);
        ck_assert_uint_lt(out->length, OUTPUT_MAX);
    }
    close(fds[0]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int ctl(struct cluster *cluster, json_t **ret, const char *first, va_list args)
{
    const char *argv[ARGS_MAX] = {"coordinator/spinctl/spinctl", "--json", "--state-dir", "state"};
    int n = 4;
    for (const char *arg = first; arg != NULL; arg = va_arg(args, const char *)) {
        ck_assert_int_lt(n, ARGS_MAX - 1);
        argv[n++] = arg;
    }
    struct sp_buf out = SP_BUF_INIT;
    struct sp_error err;
    json_t *json = NULL;
    int code = run_and_read(cluster, argv, &out);
    if (out.length > 0 && sp_json_parse(out.data, out.length, "spinctl", &json, &err) != SP_OK)
        json = NULL;
    sp_buf_deinit(&out);
    if (ret != NULL)
        *ret = json;
    else
        json_decref(json);
    return code;
}

int cluster_ctl(struct cluster *cluster, json_t **ret, ...)
{
    va_list args;
    va_start(args, ret);
    const char *first = va_arg(args, const char *);
    int code = ctl(cluster, ret, first, args);
    va_end(args);
    return code;
}

json_t *cluster_ctl_ok(struct cluster *cluster, ...)
{
    va_list args;
    json_t *json = NULL;
    va_start(args, cluster);
    const char *first = va_arg(args, const char *);
    int code = ctl(cluster, &json, first, args);
    va_end(args);
    ck_assert_msg(code == 0, "spinctl %s ended with %d: see %s/commands.log", first, code,
                  cluster->dir);
    ck_assert_msg(json != NULL, "spinctl --json %s printed no JSON", first);
    return json;
}

/* ---- the model ---- */

/* A tokenizer with one token for each byte, and two special ones. */
static void write_tokenizer(struct cluster *cluster)
{
    json_t *vocab = json_object(), *added = json_array();
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool shown = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        int c = shown ? b : next++;
        char utf8[3] = {(char)c};
        if (c >= 0x80) {
            utf8[0] = (char)(0xc0 | c >> 6);
            utf8[1] = (char)(0x80 | (c & 0x3f));
        }
        json_object_set_new(vocab, utf8, json_integer(b));
    }
    const char *const special[] = {"<s>", "</s>"};
    for (int i = 0; i < 2; i++)
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", 256 + i,
                                               "content", special[i], "single_word", 0, "lstrip", 0,
                                               "rstrip", 0, "normalized", 0, "special", 1));
    json_t *tokenizer = json_pack(
        "{s:s,s:o,s:n,s:{s:s,s:b,s:b,s:b},s:n,s:{s:s,s:b,s:b,s:b},s:{s:s,s:n,s:n,s:o,s:[]}}",
        "version", "1.0", "added_tokens", added, "normalizer", "pre_tokenizer", "type", "ByteLevel",
        "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "post_processor", "decoder",
        "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "model",
        "type", "BPE", "dropout", "unk_token", "vocab", vocab, "merges");
    ck_assert_ptr_nonnull(tokenizer);
    char *text = json_dumps(tokenizer, 0);
    cluster_write(cluster, "tokenizer.json", "%s", text);
    free(text);
    json_decref(tokenizer);
}

static void make_model(struct cluster *cluster)
{
    cluster_write(cluster, "config.json",
                  "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
                  "\"vocab_size\":258,\"hidden_size\":32,\"intermediate_size\":64,"
                  "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                  "\"max_position_embeddings\":96,\"rms_norm_eps\":1e-5,"
                  "\"tie_word_embeddings\":true,\"initializer_range\":0.1,\"bos_token_id\":256,"
                  "\"eos_token_id\":257,\"torch_dtype\":\"float32\"}");
    write_tokenizer(cluster);
    snprintf(cluster->base, sizeof(cluster->base), "%s/base", cluster->dir);
    const char *const argv[] = {"common/spin-model/spin-model",
                                "init",
                                "--config",
                                "config.json",
                                "--tokenizer",
                                "tokenizer.json",
                                "--seed",
                                "3",
                                "base",
                                NULL};
    struct sp_buf out = SP_BUF_INIT;
    int code = run_and_read(cluster, argv, &out);
    sp_buf_deinit(&out);
    ck_assert_msg(code == 0, "spin-model init ended with %d: see %s/commands.log", code,
                  cluster->dir);
}

/* ---- life ---- */

static void make_token(struct cluster *cluster, const char *role)
{
    json_t *json = cluster_ctl_ok(cluster, "token", "create", "--role", role, "--name", role, NULL);
    char *name = sp_xprintf("%s.token", role);
    cluster_write(cluster, name, "%s\n", cluster_text(json, "token"));
    free(name);
    json_decref(json);
}

void cluster_open(struct cluster *cluster)
{
    *cluster = (struct cluster){.time_scale = 0.05, .slots = 8};
    snprintf(cluster->dir, sizeof(cluster->dir), "/tmp/spin-e2e-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(cluster->dir));
    make_model(cluster);
    cluster_start_coordinator(cluster);
    make_token(cluster, "generator");
    make_token(cluster, "trainer");
}

void cluster_close(struct cluster *cluster)
{
    struct sp_error err;
    for (int i = 0; i < CLUSTER_GENERATORS; i++)
        cluster_end(&cluster->generators[i], SIGKILL);
    for (int i = 0; i < CLUSTER_TRAINERS; i++)
        cluster_end(&cluster->trainers[i], SIGKILL);
    cluster_end(&cluster->coordinator, SIGKILL);
    if (getenv("SPIN_E2E_KEEP") == NULL)
        ck_assert_int_eq(sp_remove_tree(cluster->dir, &err), SP_OK);
}

void cluster_start_coordinator(struct cluster *cluster)
{
    char scale[64];
    snprintf(scale, sizeof(scale), "coordinator.time_scale=%g", cluster->time_scale);
    const char *const argv[] = {"coordinator/spin-coordinator",
                                "--state-dir",
                                "state",
                                "--set",
                                scale,
                                "--set",
                                cluster->set ? cluster->set : "http.listen=",
                                NULL};
    ck_assert_int_eq(cluster->coordinator, 0);
    cluster->coordinator = spawn(cluster, "coordinator", -1, argv);
    int64_t end_ms = sp_now_ms() + COORDINATOR_WAIT_MS;
    while (cluster_ctl(cluster, NULL, "--timeout", "2", "status", NULL) != 0) {
        ck_assert_msg(sp_now_ms() < end_ms, "the coordinator does not answer: see %s",
                      cluster->dir);
        ck_assert_msg(waitpid(cluster->coordinator, NULL, WNOHANG) == 0,
                      "the coordinator ended: see %s/coordinator.log", cluster->dir);
        sp_sleep_ms(POLL_MS);
    }
}

void cluster_restart_with(struct cluster *cluster, const char *set)
{
    cluster_end(&cluster->coordinator, SIGTERM);
    cluster->set = set;
    cluster_start_coordinator(cluster);
}

static pid_t start_worker(struct cluster *cluster, const char *program, const char *role, int index,
                          const char *const *more)
{
    char name[64], state[64], token[64], url[128];
    snprintf(name, sizeof(name), "%s-%d", role, index);
    snprintf(state, sizeof(state), "%s", name);
    snprintf(token, sizeof(token), "%s.token", role);
    snprintf(url, sizeof(url), "ipc://%s/state/coordinator.sock", cluster->dir);
    const char *argv[ARGS_MAX] = {program,
                                  "--coordinator",
                                  url,
                                  "--token-file",
                                  token,
                                  "--name",
                                  name,
                                  "--state-dir",
                                  state,
                                  "--set",
                                  "weights.cache_dir=cache",
                                  "--set",
                                  "compute.threads=1",
                                  "--set",
                                  "coordinator.backoff_min=10ms",
                                  "--set",
                                  "coordinator.backoff_max=100ms",
                                  "--set",
                                  "coordinator.request_timeout=5s"};
    int n = 0;
    while (argv[n] != NULL)
        n++;
    while (*more != NULL)
        argv[n++] = *more++;
    for (size_t i = 0; i < SP_COUNT(cluster->worker_sets) && cluster->worker_sets[i]; i++) {
        argv[n++] = "--set";
        argv[n++] = cluster->worker_sets[i];
    }
    return spawn(cluster, name, -1, argv);
}

void cluster_start_generator(struct cluster *cluster, int index)
{
    char slots[64], items[64];
    snprintf(slots, sizeof(slots), "generate.slots=%d", cluster->slots);
    snprintf(items, sizeof(items), "generate.lease_items=%d", cluster->lease_items);
    const char *const more[] = {"--set", slots, "--set", "generate.submit_wait=20ms",
                                "--set", items, NULL};
    ck_assert_int_eq(cluster->generators[index], 0);
    cluster->generators[index] =
        start_worker(cluster, "generator/spin-generator", "generator", index, more);
}

void cluster_start_trainer(struct cluster *cluster, int index)
{
    const char *const more[] = {"--set", "train.report=20ms", NULL};
    ck_assert_int_eq(cluster->trainers[index], 0);
    cluster->trainers[index] =
        start_worker(cluster, "trainer/spin-trainer", "trainer", index, more);
}

/* ---- data and runs ---- */

void cluster_write(struct cluster *cluster, const char *name, const char *format, ...)
{
    char path[512];
    struct sp_error err = {0};
    struct sp_buf text = SP_BUF_INIT;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    ck_assert_int_ge(n, 0);
    sp_buf_reserve(&text, (size_t)n + 1);
    va_start(args, format);
    vsnprintf(text.data, (size_t)n + 1, format, args);
    va_end(args);
    snprintf(path, sizeof(path), "%s/%s", cluster->dir, name);
    ck_assert_msg(sp_write_file_durable(path, text.data, (size_t)n, 0600, &err) == SP_OK, "%s",
                  err.text);
    sp_buf_deinit(&text);
}

/* `length` letters that depend on (what, row). */
static void put_word(struct sp_buf *out, uint32_t what, int row, int length, const char *letters)
{
    for (int i = 0; i < length; i++)
        sp_buf_putc(out, letters[sp_rng_below(1, SP_STREAM_TEST, 0, (uint32_t)row, what,
                                              (uint32_t)i, strlen(letters))]);
}

void cluster_write_rows(struct cluster *cluster, const char *name, int first, int n)
{
    struct sp_buf out = SP_BUF_INIT;
    for (int row = first; row < first + n; row++) {
        sp_buf_printf(&out, "{\"prompt\": \"%d ", row);
        put_word(&out, 1, row, 2 + row % 5, "abcdef");
        sp_buf_puts(&out, ":\", \"response\": \"");
        put_word(&out, 2, row, 2 + row % 4, "ab");
        sp_buf_puts(&out, "\"}\n");
    }
    cluster_write(cluster, name, "%s", out.data);
    sp_buf_deinit(&out);
}

void cluster_write_preferences(struct cluster *cluster, const char *name, int n)
{
    struct sp_buf out = SP_BUF_INIT;
    for (int row = 0; row < n; row++) {
        sp_buf_printf(&out, "{\"prompt\": \"%d ", row);
        put_word(&out, 1, row, 2 + row % 5, "abcdef");
        sp_buf_puts(&out, ":\", \"chosen\": \"");
        put_word(&out, 2, row, 2 + row % 4, "ab");
        sp_buf_puts(&out, "\", \"rejected\": \"");
        put_word(&out, 3, row, 2 + row % 6, "cd");
        sp_buf_puts(&out, "\"}\n");
    }
    cluster_write(cluster, name, "%s", out.data);
    sp_buf_deinit(&out);
}

void cluster_create_run(struct cluster *cluster, const char *name, uint64_t seed, const char *more)
{
    char file[128];
    const char *argv[ARGS_MAX] = {
        "coordinator/spinctl/spinctl", "--json", "--state-dir", "state", "create-run", file};
    int n = 6;
    snprintf(file, sizeof(file), "%s.ini", name);
    cluster_write(cluster, file,
                  "[run]\nname = %s\nseed = %llu\n"
                  "[data]\ntrain = train.jsonl\nholdout_share = 0.1\nmax_prompt_tokens = 40\n"
                  "max_sequence_tokens = 64\ntemplate = none\n"
                  "[model]\nbase = %s\n"
                  "[generate]\nmax_new_tokens = 12\n"
                  "[train]\nlearning_rate = 1e-3\nbatch_pairs = 8\nepochs = 2\n"
                  "micro_batch_tokens = 256\nsnapshot_steps = 3\nguard_nats = 0\n"
                  "[verdict]\nmin_pairs = 5\ntrained_sample = 10\naccept_degraded = true\n",
                  name, (unsigned long long)seed, cluster->base);
    char *list = sp_xstrdup(more), *rest = list;
    for (char *word; (word = strsep(&rest, " ")) != NULL;) {
        if (*word == '\0')
            continue;
        ck_assert_int_lt(n, ARGS_MAX - 2);
        argv[n++] = "--set";
        argv[n++] = word;
    }
    struct sp_buf out = SP_BUF_INIT;
    int code = run_and_read(cluster, argv, &out);
    ck_assert_msg(code == 0, "create-run %s ended with %d: see %s/commands.log", name, code,
                  cluster->dir);
    sp_buf_deinit(&out);
    free(list);
}

/* ---- looking ---- */

const char *cluster_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    ck_assert_msg(text != NULL, "no text \"%s\" in what spinctl printed", key);
    return text;
}

double cluster_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_number(value), "no number \"%s\" in what spinctl printed", key);
    return json_number_value(value);
}

/* The "iteration" object of the run's status (may be null), a new reference. */
static json_t *status_of(struct cluster *cluster, const char *run)
{
    json_t *json = cluster_ctl_ok(cluster, "status", run, NULL);
    json_t *iteration =
        json_object_get(json_array_get(json_object_get(json, "runs"), 0), "iteration");
    ck_assert_msg(iteration != NULL, "spinctl status %s shows no iteration", run);
    json_incref(iteration);
    json_decref(json);
    return iteration;
}

const char *cluster_state(struct cluster *cluster, const char *run)
{
    static char state[32];
    json_t *iteration = status_of(cluster, run);
    snprintf(state, sizeof(state), "%s",
             json_is_object(iteration) ? cluster_text(iteration, "state") : "none");
    json_decref(iteration);
    return state;
}

static int64_t counter(struct cluster *cluster, const char *run, const char *part, const char *key)
{
    json_t *iteration = status_of(cluster, run);
    int64_t value = json_integer_value(json_object_get(json_object_get(iteration, part), key));
    json_decref(iteration);
    return value;
}

int64_t cluster_pairs_done(struct cluster *cluster, const char *run)
{
    return counter(cluster, run, "generation", "pairs_done");
}

int64_t cluster_steps_done(struct cluster *cluster, const char *run)
{
    return counter(cluster, run, "training", "step");
}

void cluster_wait_state(struct cluster *cluster, const char *run, const char *state, int seconds)
{
    int64_t end_ms = sp_now_ms() + 1000 * (int64_t)seconds;
    const char *now;
    while (strcmp(now = cluster_state(cluster, run), state) != 0) {
        ck_assert_msg(sp_now_ms() < end_ms, "run %s is %s, not %s, after %d s: see %s", run, now,
                      state, seconds, cluster->dir);
        sp_sleep_ms(POLL_MS);
    }
}

void cluster_wait_pairs(struct cluster *cluster, const char *run, int64_t least, int seconds)
{
    int64_t end_ms = sp_now_ms() + 1000 * (int64_t)seconds;
    while (cluster_pairs_done(cluster, run) < least) {
        ck_assert_msg(sp_now_ms() < end_ms, "run %s: no %lld pairs after %d s: see %s", run,
                      (long long)least, seconds, cluster->dir);
        sp_sleep_ms(POLL_MS);
    }
}

void cluster_wait_steps(struct cluster *cluster, const char *run, int64_t least, int seconds)
{
    int64_t end_ms = sp_now_ms() + 1000 * (int64_t)seconds;
    while (cluster_steps_done(cluster, run) < least) {
        ck_assert_msg(sp_now_ms() < end_ms, "run %s: no %lld steps after %d s: see %s", run,
                      (long long)least, seconds, cluster->dir);
        sp_sleep_ms(POLL_MS);
    }
}

void cluster_creep(struct cluster *cluster, pid_t pid, const char *run, int64_t least,
                   int64_t (*done)(struct cluster *cluster, const char *run))
{
    int64_t end_ms = sp_now_ms() + CREEP_WAIT_MS;
    for (;;) {
        kill(pid, SIGSTOP);
        if (done(cluster, run) >= least)
            return;
        ck_assert_msg(sp_now_ms() < end_ms, "run %s gets nowhere: see %s", run, cluster->dir);
        kill(pid, SIGCONT);
        sp_sleep_ms(CREEP_SLICE_MS);
    }
}

void cluster_creep_pairs(struct cluster *cluster, pid_t generator, const char *run, int64_t least)
{
    cluster_creep(cluster, generator, run, least, cluster_pairs_done);
}

void cluster_creep_steps(struct cluster *cluster, pid_t trainer, const char *run, int64_t least)
{
    cluster_creep(cluster, trainer, run, least, cluster_steps_done);
}

void cluster_start_iteration(struct cluster *cluster, const char *run)
{
    json_decref(cluster_ctl_ok(cluster, "start-iteration", run, NULL));
}

void cluster_iterate(struct cluster *cluster, const char *run, int seconds)
{
    cluster_start_iteration(cluster, run);
    cluster_wait_state(cluster, run, "closed", seconds);
}

json_t *cluster_iteration(struct cluster *cluster, const char *run, int iteration)
{
    json_t *json = cluster_ctl_ok(cluster, "iterations", run, NULL);
    json_t *rows = json_object_get(json, "iterations"), *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        if (json_integer_value(json_object_get(row, "iteration")) == iteration) {
            json_incref(row);
            json_decref(json);
            return row;
        }
    }
    ck_abort_msg("run %s has no iteration %d", run, iteration);
    return NULL;
}

void cluster_new_token(struct cluster *cluster, const char *file, const char *role,
                       const char *option, const char *value, char ret_id[32])
{
    json_t *json =
        option ? cluster_ctl_ok(cluster, "token", "create", "--role", role, "--name", file, option,
                                value, NULL)
               : cluster_ctl_ok(cluster, "token", "create", "--role", role, "--name", file, NULL);
    cluster_write(cluster, file, "%s\n", cluster_text(json, "token"));
    snprintf(ret_id, 32, "%s", cluster_text(json, "id"));
    json_decref(json);
}

char *cluster_read_token(struct cluster *cluster, const char *file)
{
    char *path = sp_path_join(cluster->dir, file), *token = NULL;
    size_t length = 0;
    struct sp_error err;
    ck_assert_msg(sp_read_file(path, 4096, &token, &length, &err) == SP_OK, "%s", err.text);
    token[strcspn(token, "\n")] = '\0';
    free(path);
    return token;
}
