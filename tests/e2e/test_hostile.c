/* Malformed files, given to the real programs: each ends with a code that is not 0 and a message
 * that names the file and what in it is wrong, and no daemon that runs minds. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60

struct bad_file {
    const char *text;
    const char *mentions[2]; /* beside the file's name */
};

/* Runs `program arguments` and wants a refusal that names `file` and the mentions. */
static void refuse(const char *dir, const char *program, const char *arguments, const char *file,
                   const struct bad_file *bad)
{
    struct said said;
    int code = program_run(dir, &said, 20, program, arguments);
    ck_assert_msg(code > 0 && code < 20, "%s: %.80s: ended with %d: %s", program, bad->text, code,
                  said.err);
    ck_assert_msg(strstr(said.err, file) != NULL, "%s: %.80s: no \"%s\" in: %s", program, bad->text,
                  file, said.err);
    for (int i = 0; i < 2 && bad->mentions[i]; i++)
        ck_assert_msg(strstr(said.err, bad->mentions[i]) != NULL, "%s: %.80s: no \"%s\" in: %s",
                      program, bad->text, bad->mentions[i], said.err);
}

/* ---- configuration files ---- */

static const struct bad_file configs[] = {
    {"[coordinator]\nstate_dri = x\n", {"bad.conf:2", "state_dri"}},
    {"[coordinatr]\n", {"bad.conf:1", "coordinatr"}},
    {"state_dir = x\n", {"bad.conf:1", "section"}},
    {"[coordinator]\nstate_dir\n", {"bad.conf:2", NULL}},
    {"[coordinator\nstate_dir = x\n", {"bad.conf:1", NULL}},
    {"[coordinator]\nparallel = many\n", {"bad.conf:2", "parallel"}},
    {"[coordinator]\nparallel = 1\n", {"bad.conf:2", "parallel"}},
    {"[coordinator]\nparallel = 99999999999999999999\n", {"bad.conf:2", "parallel"}},
    {"[coordinator]\ndisk_reserve = 5 parsecs\n", {"bad.conf:2", "disk_reserve"}},
    {"[coordinator]\nlog_level = loud\n", {"loud", NULL}},
    {"[coordinator]\ntime_scale = nan\n", {"bad.conf:2", "time_scale"}},
    {"[coordinator]\nparallel = 100\nparallel = 200\n", {"bad.conf:3", "parallel"}},
    {"[coordinator]\nstate_dir = \xff\xfe\n", {"bad.conf:2", NULL}},
    {"\x7f"
     "ELF\x01\x02\n",
     {"bad.conf:1", NULL}},
};

static const struct bad_file worker_configs[] = {
    {"[coordinator]\nurll = ipc:///x\n", {"bad.conf:2", "url"}},
    {"[worker]\nname = a\nname = b\n", {"bad.conf:3", "name"}},
    {"[compute]\nthreads = minus one\n", {"bad.conf:2", "threads"}},
    {"[compute]\nthreads = 100000\n", {"bad.conf:2", "threads"}},
    {"[coordinator]\nrequest_timeout = 5\n", {"bad.conf:2", "request_timeout"}},
    {"[coordinator]\nbackoff_min = -3 s\n", {"bad.conf:2", "backoff_min"}},
    {"[cooordinator]\n", {"bad.conf:1", "cooordinator"}},
    {"nonsense\n", {"bad.conf:1", NULL}},
};

static const struct bad_file run_files[] = {
    {"", {"name", NULL}},
    {"[run]\nname = a b\n", {"name", NULL}},
    {"[run]\nname = ../r\n", {"name", NULL}},
    {"[run]\nname = r\nmode = magic\n", {"bad.conf:3", "mode"}},
    {"[run]\nname = r\nseed = -1\n", {"bad.conf:3", "seed"}},
    {"[run]\nname = r\niterations = 0\n", {"bad.conf:3", "iterations"}},
    {"[run]\nname = r\n[train]\nlearning_rate = fast\n", {"bad.conf:4", "learning_rate"}},
    {"[run]\nname = r\n[train]\nlearning_rate = 1e-5, , 2\n", {"bad.conf:4", "learning_rate"}},
    {"[run]\nname = r\n[train]\nbatch_pairs = 0\n", {"bad.conf:4", "batch_pairs"}},
    {"[run]\nname = r\n[generate]\ntemperature = inf\n", {"bad.conf:4", "temperature"}},
    {"[run]\nname = r\n[generate]\ntop_p = 1.5\n", {"bad.conf:4", "top_p"}},
    {"[run]\nname = r\n[model]\nbase = b\n", {"train", NULL}},
    {"[run]\nname = r\n[data]\ntrain = t\n", {"base", NULL}},
    {"[run]\nname = r\n[nonsense]\nx = 1\n", {"bad.conf:3", "nonsense"}},
};

START_TEST(test_configuration_files)
{
    struct cluster cluster;
    cluster_open(&cluster);
    for (size_t i = 0; i < SP_COUNT(configs); i++) {
        cluster_write(&cluster, "bad.conf", "%s", configs[i].text);
        refuse(cluster.dir, COORDINATOR, "--config bad.conf --set coordinator.state_dir=other",
               configs[i].mentions[0], &configs[i]);
    }
    for (size_t i = 0; i < SP_COUNT(worker_configs); i++) {
        cluster_write(&cluster, "bad.conf", "%s", worker_configs[i].text);
        refuse(cluster.dir, GENERATOR, "--config bad.conf", "bad.conf", &worker_configs[i]);
        refuse(cluster.dir, TRAINER, "--config bad.conf", "bad.conf", &worker_configs[i]);
    }
    for (size_t i = 0; i < SP_COUNT(run_files); i++) {
        cluster_write(&cluster, "bad.conf", "%s", run_files[i].text);
        refuse(cluster.dir, SPINCTL, "--state-dir state create-run bad.conf", "bad.conf",
               &run_files[i]);
    }
    struct said said;
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, SPINCTL, "--state-dir state status"), 0);
    cluster_close(&cluster);
}
END_TEST

/* ---- datasets ---- */

#define GOOD "{\"prompt\": \"a\", \"response\": \"b\"}\n"

static const struct bad_file datasets[] = {
    {"", {"no rows", NULL}},
    {"\n\n", {NULL}},
    {GOOD "{\n", {".jsonl:2: ", NULL}},
    {GOOD "not json\n", {".jsonl:2: ", NULL}},
    {GOOD GOOD "[]\n", {".jsonl:3: ", NULL}},
    {GOOD "{\"prompt\": \"a\"}\n", {".jsonl:2: ", "response"}},
    {GOOD "{\"prompt\": 3, \"response\": \"b\"}\n", {".jsonl:2: ", "prompt"}},
    {GOOD "{\"prompt\": \"a\", \"response\": null}\n", {".jsonl:2: ", "response"}},
    {GOOD "{\"prompt\": \"a\", \"response\": \"\xff\"}\n", {".jsonl:2: ", NULL}},
    {GOOD "{\"prompt\": \"a\", \"response\": \"b\"} {}\n", {".jsonl:2: ", NULL}},
    {GOOD "{\"prompt\": \"a\", \"prompt\": \"a\", \"response\": \"b\"}\n",
     {".jsonl:2: ", "prompt"}},
    {GOOD "{\"messages\": []}\n", {".jsonl:2: ", NULL}},
    {"{\"messages\": \"x\"}\n", {".jsonl:1: ", "messages"}},
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n", {".jsonl:1: ", "messages"}},
    {"{\"messages\": [{\"role\": \"ghost\", \"content\": \"x\"}, {\"role\": \"assistant\", "
     "\"content\": \"y\"}]}\n",
     {".jsonl:1: ", "messages[0]"}},
    {"{\"colour\": \"red\"}\n", {".jsonl:1: ", NULL}},
};

START_TEST(test_dataset_lines)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 12);
    cluster_create_run(&cluster, "good", 1, "");
    for (size_t i = 0; i < SP_COUNT(datasets); i++) {
        char name[128];
        snprintf(
            name, sizeof(name),
            "--state-dir state create-run good.ini --set name=bad --set data.train=bad%zu.jsonl",
            i);
        char file[64];
        snprintf(file, sizeof(file), "bad%zu.jsonl", i);
        cluster_write(&cluster, file, "%s", datasets[i].text);
        refuse(cluster.dir, SPINCTL, name, file, &datasets[i]);
    }
    /* None of them left a run behind, and the name is free. */
    static const struct expectation free_name[] = {
        {"--state-dir state status bad", 4, {"bad"}},
        {"--state-dir state create-run good.ini --set name=bad", 0, {"is created"}}};
    program_expect(cluster.dir, SPINCTL, free_name, SP_COUNT(free_name));
    cluster_close(&cluster);
}
END_TEST

/* ---- files of a checkpoint ---- */

static void write_safetensors(struct cluster *cluster, const char *path, uint64_t header_bytes,
                              const char *header, size_t data_bytes)
{
    struct sp_buf out = SP_BUF_INIT;
    struct sp_error err;
    for (int i = 0; i < 8; i++)
        sp_buf_putc(&out, (char)(header_bytes >> (8 * i) & 255));
    sp_buf_puts(&out, header);
    for (size_t i = 0; i < data_bytes; i++)
        sp_buf_putc(&out, 0);
    char *full = sp_path_join(cluster->dir, path);
    ck_assert_int_eq(sp_write_file_durable(full, out.data, out.length, 0600, &err), SP_OK);
    free(full);
    sp_buf_deinit(&out);
}

#define TENSOR(shape, from, to)                                                                    \
    "{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #from       \
    "," #to "]}}"

static const struct {
    uint64_t header_bytes; /* 0: the header's length */
    size_t data_bytes;
    struct bad_file bad;
} tensors[] = {
    {UINT64_MAX, 0, {"{}", {NULL}}},
    {1ull << 40, 0, {"{}", {NULL}}},
    {1000, 0, {"{}", {NULL}}},
    {0, 0, {"[]", {NULL}}},
    {0, 0, {"{", {NULL}}},
    {0, 0, {"{\"model.norm.weight\":7}", {"model.norm.weight", NULL}}},
    {0,
     4,
     {"{\"model.norm.weight\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}",
      {"model.norm.weight", "F31"}}},
    {0, 4, {TENSOR("[-1]", 0, 4), {"model.norm.weight", "shape"}}},
    {0, 4, {TENSOR("[2]", 0, 4), {"model.norm.weight", NULL}}},
    {0, 4, {TENSOR("[1]", 4, 0), {"model.norm.weight", NULL}}},
    {0, 4, {TENSOR("[1]", 0, 400), {"model.norm.weight", NULL}}},
    {0, 8, {TENSOR("[4294967296,4294967296,2]", 0, 8), {"model.norm.weight", NULL}}},
    {0, 9, {TENSOR("[1]", 0, 4), {NULL}}},
};

static const struct bad_file tokenizers[] = {
    {"", {NULL}},
    {"{", {"not valid JSON", NULL}},
    {"[1]", {"object", NULL}},
    {"{}", {"model", NULL}},
    {"{\"model\": {\"type\": \"Oracle\"}}", {"model.type", NULL}},
    {"{\"model\": {\"type\": \"BPE\"}}", {"model.vocab", NULL}},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}", {"model.vocab", NULL}},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}",
     {"model.vocab", NULL}},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}",
     {"model.vocab", NULL}},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}",
     {"model.merges[0]", NULL}},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
     {"model.merges[0]", NULL}},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"decoder\": 7}",
     {"decoder", NULL}},
};

static const struct bad_file model_configs[] = {
    {"", {NULL}},
    {"[]", {NULL}},
    {"{\"model_type\": \"llama\"}", {"vocab_size", NULL}},
    {"{\"model_type\": \"teapot\"}", {"teapot", NULL}},
    {"{\"model_type\":\"llama\",\"vocab_size\":-5}", {"vocab_size", NULL}},
    {"{\"model_type\":\"llama\",\"vocab_size\":258,\"hidden_size\":1e99}", {"hidden_size", NULL}},
};

#define CREATE "--state-dir state create-run good.ini --set name=bad --set model.base=bad"

START_TEST(test_checkpoint_files)
{
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 12);
    cluster_create_run(&cluster, "good", 1, "");
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, "/bin/cp", "-r base bad"), 0);
    for (size_t i = 0; i < SP_COUNT(tensors); i++) {
        const struct bad_file *bad = &tensors[i].bad;
        uint64_t length = tensors[i].header_bytes ? tensors[i].header_bytes : strlen(bad->text);
        write_safetensors(&cluster, "bad/model.safetensors", length, bad->text,
                          tensors[i].data_bytes);
        refuse(cluster.dir, SPIN_MODEL, "info bad", "model.safetensors", bad);
        refuse(cluster.dir, SPINCTL, CREATE, "model.safetensors", bad);
    }
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, "/bin/cp", "base/model.safetensors bad/"),
                     0);
    for (size_t i = 0; i < SP_COUNT(tokenizers); i++) {
        cluster_write(&cluster, "bad/tokenizer.json", "%s", tokenizers[i].text);
        refuse(cluster.dir, SPIN_MODEL, "tokenize bad", "tokenizer.json", &tokenizers[i]);
        refuse(cluster.dir, SPINCTL, CREATE, "tokenizer.json", &tokenizers[i]);
    }
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, "/bin/cp", "base/tokenizer.json bad/"), 0);
    for (size_t i = 0; i < SP_COUNT(model_configs); i++) {
        cluster_write(&cluster, "bad/config.json", "%s", model_configs[i].text);
        refuse(cluster.dir, SPIN_MODEL, "info bad", "config.json", &model_configs[i]);
        /* The coordinator wants no more than the vocabulary of it. */
        const struct bad_file unknown = {.text = model_configs[i].text};
        refuse(cluster.dir, SPINCTL, CREATE, "config.json", &unknown);
    }
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, SPINCTL, "--state-dir state status good"),
                     0);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/hostile");
    TCase *c = tcase_create("files");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_configuration_files);
    tcase_add_test(c, test_dataset_lines);
    tcase_add_test(c, test_checkpoint_files);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
