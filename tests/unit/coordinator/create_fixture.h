/* A base model without weights worth the name, a tokenizer of single characters, datasets, and the
 * blobs of all of them, for the tests of create-run and of what reads a run. */
#ifndef SPIN_TESTS_CREATE_FIXTURE_H
#define SPIN_TESTS_CREATE_FIXTURE_H

#include "common/base/json.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/create_run.h"
#include "tests/unit/coordinator/store_fixture.h"

/* Ids: 0 <s>, 1 </s>, then the printable characters from ' ' on, then "\n". */
#define CF_VOCAB (2 + 95 + 1)
#define CF_ID(c) ((c) == '\n' ? 97 : (c) - ' ' + 2)

struct cf {
    struct fx fx;
    char base[80]; /* directory of the model */
    struct ckpt_blobs *blobs;
    json_t *args; /* of create-run; "settings", "base", "data" */
};

__attribute__((unused)) static void cf_write(const char *dir, const char *name, const char *text)
{
    struct fx fx = {0};
    char *path = sp_path_join(dir, name);
    OK(sp_write_file_durable(path, text, strlen(text), 0600, &fx.err));
    free(path);
}

__attribute__((unused)) static void cf_write_model(const char *dir)
{
    json_t *vocab = json_object();
    json_object_set_new(vocab, "<s>", json_integer(0));
    json_object_set_new(vocab, "</s>", json_integer(1));
    json_object_set_new(vocab, "\xc4\xa0", json_integer(CF_ID(' ')));  /* Ġ is the space */
    json_object_set_new(vocab, "\xc4\x8a", json_integer(CF_ID('\n'))); /* Ċ */
    for (char c = '!'; c <= '~'; c++) {
        char text[2] = {c, 0};
        json_object_set_new(vocab, text, json_integer(CF_ID(c)));
    }
    json_t *document = json_pack(
        "{s:s, s:[{s:i, s:s, s:b, s:b, s:b, s:b, s:b}, {s:i, s:s, s:b, s:b, s:b, s:b, s:b}], s:n,"
        " s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:o, s:[]}}",
        "version", "1.0", "added_tokens", "id", 0, "content", "<s>", "single_word", 0, "lstrip", 0,
        "rstrip", 0, "normalized", 0, "special", 1, "id", 1, "content", "</s>", "single_word", 0,
        "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1, "normalizer", "pre_tokenizer",
        "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0,
        "post_processor", "decoder", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0,
        "use_regex", 0, "model", "type", "BPE", "vocab", vocab, "merges");
    ck_assert_ptr_nonnull(document);
    char *text = json_dumps(document, 0);
    cf_write(dir, "tokenizer.json", text);
    free(text);
    json_decref(document);
    cf_write(dir, "config.json",
             "{\"model_type\":\"llama\",\"vocab_size\":98,\"max_position_embeddings\":200}");
    cf_write(dir, "generation_config.json", "{\"eos_token_id\":1}");
    cf_write(dir, "model.safetensors", "not looked at by the coordinator");
}

/* Puts a dataset's blobs; its manifest's digest goes to args "data". */
__attribute__((unused)) static void cf_data(struct cf *cf, const char *split, const char *text)
{
    struct fx fx = cf->fx;
    char *name = sp_xprintf("%s.jsonl", split);
    cf_write(fx.dir, name, text);
    char *path = sp_path_join(fx.dir, name);
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf out = SP_BUF_INIT;
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    OK(ckpt_blobs_put_file(cf->blobs, path, name, NULL, NULL, &manifest, &fx.err));
    ckpt_manifest_format(&manifest, &out);
    OK(ckpt_blobs_put_new(cf->blobs, out.data, out.length, &digest, &fx.err));
    sp_digest_hex(&digest, hex);
    json_object_set_new(json_object_get(cf->args, "data"), split, json_string(hex));
    char *key = sp_xprintf("data.%s", split);
    json_object_set_new(json_object_get(cf->args, "settings"), key, json_string(name));
    free(key);
    free(name);
    free(path);
    sp_buf_deinit(&out);
    ckpt_manifest_deinit(&manifest);
}

__attribute__((unused)) static void cf_put_base(struct cf *cf)
{
    struct fx fx = cf->fx;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf out = SP_BUF_INIT;
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    OK(ckpt_blobs_put_dir(cf->blobs, cf->base, NULL, NULL, &manifest, &fx.err));
    ckpt_manifest_format(&manifest, &out);
    OK(ckpt_blobs_put_new(cf->blobs, out.data, out.length, &digest, &fx.err));
    sp_digest_hex(&digest, hex);
    json_object_set_new(cf->args, "base", json_string(hex));
    sp_buf_deinit(&out);
    ckpt_manifest_deinit(&manifest);
}

__attribute__((unused)) static void cf_set(struct cf *cf, const char *assignment)
{
    struct fx fx = {0};
    struct run_settings settings;
    json_t *old = json_object_get(cf->args, "settings");
    sp_config_init(&run_settings_spec, &settings);
    OK(sp_config_from_json(&run_settings_spec, old, &settings, &fx.err));
    OK(sp_config_set(&run_settings_spec, assignment, &settings, &fx.err));
    json_object_set_new(cf->args, "settings", sp_config_to_json(&run_settings_spec, &settings));
    sp_config_deinit(&run_settings_spec, &settings);
}

/* n rows {"prompt": "<tag> i", "response": "answer i"} */
__attribute__((unused)) static char *cf_rows(const char *tag, int n)
{
    struct sp_buf out = SP_BUF_INIT;
    for (int i = 0; i < n; i++)
        sp_buf_printf(&out, "{\"prompt\":\"%s %d\",\"response\":\"answer %d\"}\n", tag, i, i);
    return sp_buf_detach(&out);
}

__attribute__((unused)) static struct cf cf_new(void)
{
    struct cf cf = {.fx = fx_new(NULL)};
    struct fx fx = cf.fx;
    struct run_settings settings;
    OK(ckpt_blobs_open(fx.dir, NULL, &cf.blobs, &fx.err));
    snprintf(cf.base, sizeof(cf.base), "%s/model", fx.dir);
    OK(sp_mkdir_p(cf.base, 0700, &fx.err));
    cf_write_model(cf.base);
    sp_config_init(&run_settings_spec, &settings);
    cf.args = json_pack("{s:o, s:{}}", "settings", sp_config_to_json(&run_settings_spec, &settings),
                        "data");
    sp_config_deinit(&run_settings_spec, &settings);
    cf_put_base(&cf);
    char *rows = cf_rows("train", 40);
    cf_data(&cf, "train", rows);
    free(rows);
    cf_set(&cf, "run.name=demo");
    cf_set(&cf, "model.base=model");
    cf_set(&cf, "generate.max_new_tokens=16");
    cf_set(&cf, "data.max_prompt_tokens=60");
    cf_set(&cf, "data.max_sequence_tokens=120");
    cf_set(&cf, "data.template=none");
    return cf;
}

__attribute__((unused)) static void cf_free(struct cf *cf)
{
    ckpt_blobs_close(cf->blobs);
    json_decref(cf->args);
    fx_free(&cf->fx);
}

/* Runs create-run; on success *ret_report is a new reference. */
__attribute__((unused)) static enum sp_err cf_create(struct cf *cf, json_t **ret_report,
                                                     struct sp_error *err)
{
    char *args = sp_json_canonical(cf->args), *name = NULL, *report = NULL;
    struct coord_create_run request = {
        .state_dir = cf->fx.dir, .blobs = cf->blobs, .args = args, .now_ms = 1234};
    enum sp_err rc = coord_create_run(&request, &name, &report, err);
    if (rc == SP_OK) {
        ck_assert_str_eq(name, "demo");
        ck_assert_int_eq(sp_json_parse(report, strlen(report), "report", ret_report, err), SP_OK);
    }
    free(args);
    free(name);
    free(report);
    return rc;
}

/* The run "demo", made, adopted and open in cf->fx.run. */
__attribute__((unused)) static void cf_make(struct cf *cf)
{
    struct fx fx = cf->fx;
    json_t *report = NULL;
    OK(cf_create(cf, &report, &fx.err));
    json_decref(report);
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "demo", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_run_open(fx.store, "demo", &fx.run, &fx.err));
    cf->fx = fx;
}

#endif
