#include "tests/unit/worker/fake.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/model.h"

#define WAIT_MS 20000
#define VOCAB 24

static const char config_text[] =
    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":24,"
    "\"hidden_size\":16,\"intermediate_size\":32,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"max_position_embeddings\":48,"
    "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,\"initializer_range\":0.3,"
    "\"eos_token_id\":1,\"torch_dtype\":\"float32\"}";

/* Connections that a stop has cut are closed by nng when the process ends, or a minute later: what
 * the library itself holds until then is no leak. Asked by LeakSanitizer at exit. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng.so\n";
}

/* ---- what is served ---- */

void fake_pair(const struct fake *fake, uint32_t position, struct proto_train_pair *ret)
{
    static int32_t ids[FAKE_PAIRS][3][16];
    uint32_t n[3];
    for (uint32_t which = 0; which < 3; which++) {
        n[which] = 2 + (uint32_t)sp_rng_below(7, SP_STREAM_TEST, 0, position, which, 99, 6);
        for (uint32_t i = 0; i < n[which]; i++)
            ids[position][which][i] =
                2 + (int32_t)sp_rng_below(7, SP_STREAM_TEST, 0, position, which, i, VOCAB - 2);
    }
    *ret = (struct proto_train_pair){
        .position = position,
        .prompt = position,
        .prompt_ids = {.ids = ids[position][0], .count = n[0]},
        .real_ids = {.ids = ids[position][1], .count = n[1]},
        .generated_ids = {.ids = ids[position][2], .count = n[2]},
        .finish = PROTO_FINISH_LENGTH,
        .ref_real = fake->ref_real[position],
        .ref_generated = fake->ref_generated[position],
    };
}

static void make_checkpoint(struct fake *fake)
{
    struct sp_error err = {0};
    struct tn_backend *backend = NULL;
    struct tn_backend_options options = {.threads = 1};
    struct model_config config;
    struct model *model = NULL;
    json_t *json = NULL;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf text = SP_BUF_INIT;
    char *dir = sp_path_join(fake->dir, "base");
    ck_assert_int_eq(sp_json_parse(config_text, strlen(config_text), "config", &json, &err), 0);
    ck_assert_msg(model_config_parse(json, NULL, "config", &config, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(tn_open("cpu", &options, &backend, &err), SP_OK);
    ck_assert_int_eq(model_new(backend, &config, 5, &model, &err), SP_OK);
    ck_assert_msg(model_save(model, dir, TN_F32, NULL, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(ckpt_blobs_open(fake->dir, NULL, &fake->blobs, &err), SP_OK);
    ck_assert_int_eq(ckpt_blobs_put_dir(fake->blobs, dir, NULL, NULL, &manifest, &err), SP_OK);
    ckpt_manifest_format(&manifest, &text);
    fake->checkpoint = manifest.digest;
    ck_assert_int_eq(ckpt_blobs_put_new(fake->blobs, text.data, text.length, &fake->manifest, &err),
                     SP_OK);
    ckpt_manifest_deinit(&manifest);
    sp_buf_deinit(&text);
    model_free(model);
    tn_close(backend);
    json_decref(json);
    free(dir);
}

static void make_settings(struct fake *fake, const char *const *assignments)
{
    static const char *const common[] = {
        "run.name=r",
        "data.train=t",
        "model.base=b",
        "run.seed=11",
        "train.batch_pairs=4",
        "train.epochs=2",
        "data.max_prompt_tokens=16",
        "data.max_sequence_tokens=32",
        "generate.max_new_tokens=8",
        "train.micro_batch_tokens=64",
        "train.learning_rate=1e-3",
        "train.snapshot_steps=2",
        "train.guard_nats=0",
    };
    struct run_settings settings;
    struct sp_error err = {0};
    sp_config_init(&run_settings_spec, &settings);
    for (size_t i = 0; i < SP_COUNT(common); i++)
        ck_assert_msg(sp_config_set(&run_settings_spec, common[i], &settings, &err) == SP_OK, "%s",
                      err.text);
    for (; assignments != NULL && *assignments != NULL; assignments++)
        ck_assert_msg(sp_config_set(&run_settings_spec, *assignments, &settings, &err) == SP_OK,
                      "%s", err.text);
    json_t *json = sp_config_to_json(&run_settings_spec, &settings);
    fake->settings = sp_json_canonical(json);
    fake->seed = (uint64_t)settings.seed;
    fake->batch_pairs = settings.batch_pairs;
    json_decref(json);
    sp_config_deinit(&run_settings_spec, &settings);
}

/* ---- requests ---- */

/* false: answered already */
static bool known(struct fake *fake, struct proto_request *request, uint64_t worker_id)
{
    if (atomic_load(&fake->forget) > 0 && fake->worker_id != 0) {
        atomic_fetch_sub(&fake->forget, 1);
        fake->worker_id = 0;
    }
    if (worker_id == fake->worker_id && worker_id != 0)
        return true;
    proto_reply_error(request, SP_ESTALE, 0, "unknown worker: say hello again");
    return false;
}

static bool claim_is_true(const struct fake *fake, const struct proto_claim *claim)
{
    uint32_t granted = 0, named = 0;
    for (uint32_t i = 0; i < FAKE_PAIRS; i++)
        granted += fake->item_lease[i] == claim->lease_id;
    for (uint32_t i = 0; i < claim->positions.count; i++) {
        uint64_t position = claim->positions.values[i];
        named += position < FAKE_PAIRS && fake->item_lease[position] == claim->lease_id;
    }
    return granted > 0 && named == granted && named == claim->positions.count &&
           strcmp(claim->run, "r") == 0 && claim->iteration == 0 && claim->set == PROTO_SET_TRAIN &&
           sp_digest_equal(&claim->checkpoint, &fake->checkpoint);
}

static void hello(struct fake *fake, struct proto_request *request)
{
    const struct proto_hello *hello = proto_request_body(request);
    fake->worker_id = ++fake->hellos;
    fake->leases_named += hello->leases.count;
    for (uint32_t i = 0; i < hello->claims_count; i++)
        fake->claims_true += claim_is_true(fake, &hello->claims[i]);
    struct proto_hello_reply reply = {
        .worker_id = fake->worker_id, .renew_ms = 30, .poll_ms = 200, .version = "fake"};
    proto_reply(request, PROTO_HELLO_REPLY, &reply);
}

static void blobs(struct fake *fake, struct proto_request *request, enum proto_type type)
{
    struct sp_error err = {0};
    if (type == PROTO_BLOB_PUT) {
        const struct proto_blob_put *put = proto_request_body(request);
        struct proto_blob_put_reply reply = {0};
        enum sp_err rc =
            ckpt_blobs_put(fake->blobs, &put->sha256, put->data.data, put->data.length, &err);
        if (rc != SP_OK)
            proto_reply_error(request, rc, 0, "%s", err.text);
        else
            proto_reply(request, PROTO_BLOB_PUT_REPLY, &reply);
        return;
    }
    const struct proto_blob_get *get = proto_request_body(request);
    if (atomic_load(&fake->refuse_blobs)) {
        proto_reply_error(request, SP_EUNAVAIL, 5, "not now");
        return;
    }
    uint8_t *data;
    size_t length;
    enum sp_err rc = ckpt_blobs_get(fake->blobs, &get->sha256, &data, &length, &err);
    if (rc != SP_OK) {
        proto_reply_error(request, rc, 0, "%s", err.text);
        return;
    }
    struct proto_blob_get_reply reply = {.data = {.data = data, .length = (uint32_t)length}};
    proto_reply(request, PROTO_BLOB_GET_REPLY, &reply);
    free(data);
}

static void trainer_lease(struct fake *fake, struct proto_request *request)
{
    struct proto_trainer_lease_reply reply = {0};
    if (atomic_exchange(&fake->offer_training, false)) {
        reply = (struct proto_trainer_lease_reply){
            .granted = true,
            .run = "r",
            .epoch = ++fake->epoch,
            .lease_ms = 2000,
            .settings = fake->settings,
            .opponent = fake->checkpoint,
            .manifest = fake->manifest,
            .plan_pairs = FAKE_PAIRS,
            .attempt = 1,
        };
        atomic_store(&fake->released, false);
    } else {
        sp_sleep_ms(5);
    }
    proto_reply(request, PROTO_TRAINER_LEASE_REPLY, &reply);
}

static void pairs_fetch(struct fake *fake, struct proto_request *request)
{
    const struct proto_pairs_fetch *fetch = proto_request_body(request);
    static struct proto_train_pair pairs[FAKE_PAIRS];
    uint32_t order[FAKE_PAIRS], n = 0;
    fake->fetches++;
    sp_rng_permutation(fake->seed, 0, fetch->train_epoch, FAKE_PAIRS, order);
    /* At most three at once, so that batches come in parts. */
    while (n < SP_MIN(fetch->count, 3u) && fetch->start + n < FAKE_PAIRS &&
           (int)(fetch->start + n) < atomic_load(&fake->available)) {
        fake_pair(fake, order[fetch->start + n], &pairs[n]);
        n++;
    }
    if (n == 0)
        sp_sleep_ms(5);
    struct proto_pairs_fetch_reply reply = {.pairs = pairs, .pairs_count = n};
    proto_reply(request, PROTO_PAIRS_FETCH_REPLY, &reply);
}

static void steps_report(struct fake *fake, struct proto_request *request)
{
    const struct proto_steps_report *report = proto_request_body(request);
    for (uint32_t i = 0; i < report->steps_count; i++) {
        ck_assert_uint_le(report->steps[i].step, FAKE_STEPS_MAX);
        fake->steps[report->steps[i].step] = report->steps[i];
        if (report->steps[i].step > atomic_load(&fake->last_step))
            atomic_store(&fake->last_step, report->steps[i].step);
    }
    struct proto_steps_report_reply reply = {.ok = true};
    proto_reply(request, PROTO_STEPS_REPORT_REPLY, &reply);
}

static void refs_submit(struct fake *fake, struct proto_request *request)
{
    const struct proto_refs_submit *submit = proto_request_body(request);
    for (uint32_t i = 0; i < submit->results_count; i++) {
        const struct proto_work_result *result = &submit->results[i];
        ck_assert_uint_lt(result->position, FAKE_PAIRS);
        fake->ref_real[result->position] = result->logprob_a;
        fake->ref_generated[result->position] = result->logprob_b;
        fake->refs++;
    }
    struct proto_refs_submit_reply reply = {.stored = submit->results_count};
    proto_reply(request, PROTO_REFS_SUBMIT_REPLY, &reply);
}

static void publish_begin(struct fake *fake, struct proto_request *request)
{
    const struct proto_publish_begin *begin = proto_request_body(request);
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_error err = {0};
    struct sp_buf missing = SP_BUF_INIT;
    ck_assert_int_eq(ckpt_manifest_parse((const char *)begin->manifest.data, begin->manifest.length,
                                         &manifest, &err),
                     SP_OK);
    for (size_t f = 0; f < manifest.count; f++)
        for (uint32_t c = 0; c < manifest.files[f].chunk_count; c++)
            if (!ckpt_blobs_has(fake->blobs, &manifest.files[f].chunks[c]))
                sp_buf_append(&missing, &manifest.files[f].chunks[c], SP_DIGEST_BYTES);
    struct proto_publish_begin_reply reply = {
        .missing = {.data = (const uint8_t *)missing.data, .length = (uint32_t)missing.length}};
    proto_reply(request, PROTO_PUBLISH_BEGIN_REPLY, &reply);
    ckpt_manifest_deinit(&manifest);
    sp_buf_deinit(&missing);
}

static void publish_commit(struct fake *fake, struct proto_request *request)
{
    const struct proto_publish_commit *commit = proto_request_body(request);
    fake->published_checkpoint = commit->checkpoint;
    fake->published_chain = commit->pairs_chain;
    snprintf(fake->summary, sizeof(fake->summary), "%s", commit->summary);
    atomic_store(&fake->published, true);
    struct proto_publish_commit_reply reply = {.ok = true};
    proto_reply(request, PROTO_PUBLISH_COMMIT_REPLY, &reply);
}

static void trainer_request(struct fake *fake, struct proto_request *request, enum proto_type type)
{
    if (atomic_load(&fake->stale) && type != PROTO_TRAINER_LEASE) {
        proto_reply_error(request, SP_ESTALE, 0, "epoch 1: the run is at epoch 2");
        return;
    }
    switch (type) {
    case PROTO_TRAINER_LEASE:
        trainer_lease(fake, request);
        return;
    case PROTO_TRAINER_RENEW: {
        struct proto_trainer_renew_reply reply = {.command = (uint32_t)atomic_load(&fake->command)};
        proto_reply(request, PROTO_TRAINER_RENEW_REPLY, &reply);
        return;
    }
    case PROTO_TRAINER_RELEASE: {
        const struct proto_trainer_release *release = proto_request_body(request);
        struct proto_trainer_release_reply reply = {.ok = true};
        snprintf(fake->reason, sizeof(fake->reason), "%s", release->reason);
        atomic_store(&fake->failed, release->failed);
        atomic_store(&fake->released, true);
        proto_reply(request, PROTO_TRAINER_RELEASE_REPLY, &reply);
        return;
    }
    case PROTO_PAIRS_FETCH:
        pairs_fetch(fake, request);
        return;
    case PROTO_STEPS_REPORT:
        steps_report(fake, request);
        return;
    case PROTO_REFS_SUBMIT:
        refs_submit(fake, request);
        return;
    case PROTO_PUBLISH_BEGIN:
        publish_begin(fake, request);
        return;
    default:
        publish_commit(fake, request);
    }
}

/* ---- work for generators ---- */

static void lease(struct fake *fake, struct proto_request *request)
{
    const struct proto_lease *ask = proto_request_body(request);
    static struct proto_work_item items[FAKE_PAIRS];
    static const int32_t stop_id = 1;
    uint32_t n = 0;
    uint64_t id = fake->next_lease + 1;
    for (uint32_t i = 0; atomic_load(&fake->offer_work) && i < FAKE_PAIRS && n < ask->max_items;
         i++) {
        struct proto_train_pair pair;
        if (fake->item_state[i] != 0)
            continue;
        fake->item_state[i] = 1;
        fake->item_lease[i] = id;
        fake_pair(fake, i, &pair);
        items[n++] = (struct proto_work_item){
            .kind = i % 4 == 3 ? PROTO_WORK_SCORE : PROTO_WORK_SAMPLE,
            .position = i,
            .prompt = i,
            .prompt_ids = pair.prompt_ids,
            .answer_a = pair.real_ids,
        };
    }
    struct proto_lease_reply reply = {0};
    if (n > 0) {
        fake->next_lease = id;
        reply = (struct proto_lease_reply){
            .lease_id = id,
            .lease_ms = 2000,
            .run = "r",
            .checkpoint = fake->checkpoint,
            .manifest = fake->manifest,
            .seed = fake->seed,
            .temperature = 1,
            .top_p = 1,
            .max_new_tokens = 8,
            .stop_ids = {.ids = &stop_id, .count = 1},
            .backend = "cpu",
            .items = items,
            .items_count = n,
        };
    } else {
        sp_sleep_ms(5);
    }
    proto_reply(request, PROTO_LEASE_REPLY, &reply);
}

static void renew(struct fake *fake, struct proto_request *request)
{
    const struct proto_renew *renew = proto_request_body(request);
    uint64_t lost = atomic_exchange(&fake->lose_lease, 0);
    struct proto_renew_reply reply = {.lost = {.values = &lost, .count = lost != 0}};
    for (uint32_t i = 0; lost != 0 && i < FAKE_PAIRS; i++)
        if (fake->item_state[i] == 1 && fake->item_lease[i] == lost)
            fake->item_state[i] = 0;
    atomic_fetch_add(&fake->renewals, 1);
    if (strcmp(renew->activity, "fetching weights") == 0)
        atomic_store(&fake->heard_fetching, true);
    proto_reply(request, PROTO_RENEW_REPLY, &reply);
}

static void submit(struct fake *fake, struct proto_request *request)
{
    const struct proto_submit *submit = proto_request_body(request);
    struct proto_submit_reply reply = {0};
    if (atomic_load(&fake->refuse_submits)) {
        proto_reply_error(request, SP_EUNAVAIL, 1, "the disk is full");
        return;
    }
    for (uint32_t i = 0; i < submit->results_count; i++) {
        const struct proto_work_result *result = &submit->results[i];
        ck_assert_uint_lt(result->position, FAKE_PAIRS);
        if (fake->item_state[result->position] == 2) {
            reply.duplicates++;
            continue;
        }
        struct proto_work_result *stored = &fake->results[result->position];
        *stored = *result;
        stored->ids.ids = result->ids.count == 0
                              ? NULL
                              : sp_xmemdup(result->ids.ids, result->ids.count * sizeof(int32_t));
        fake->item_state[result->position] = 2;
        reply.stored++;
    }
    atomic_fetch_add(&fake->stored, reply.stored);
    atomic_fetch_add(&fake->duplicates, reply.duplicates);
    proto_reply(request, PROTO_SUBMIT_REPLY, &reply);
}

static void lease_return(struct fake *fake, struct proto_request *request)
{
    const struct proto_lease_return *back = proto_request_body(request);
    struct proto_lease_return_reply reply = {0};
    for (uint32_t l = 0; l < back->leases.count; l++) {
        for (uint32_t i = 0; i < FAKE_PAIRS; i++) {
            if (fake->item_state[i] == 1 && fake->item_lease[i] == back->leases.values[l]) {
                fake->item_state[i] = 0;
                reply.returned++;
            }
        }
        atomic_fetch_add(&fake->returned, 1);
    }
    proto_reply(request, PROTO_LEASE_RETURN_REPLY, &reply);
}

static void dispatch(struct fake *fake, struct proto_request *request, enum proto_type type)
{
    if (atomic_load(&fake->busy) > 0) {
        atomic_fetch_sub(&fake->busy, 1);
        proto_reply_error(request, SP_EUNAVAIL, 1, "busy");
        return;
    }
    if (type == PROTO_HELLO) {
        hello(fake, request);
        return;
    }
    if (type == PROTO_BLOB_GET || type == PROTO_BLOB_PUT) {
        blobs(fake, request, type);
        return;
    }
    /* worker_id is the first field of the messages that are left */
    if (!known(fake, request, *(const uint64_t *)proto_request_body(request)))
        return;
    switch (type) {
    case PROTO_LEASE:
        lease(fake, request);
        return;
    case PROTO_RENEW:
        renew(fake, request);
        return;
    case PROTO_SUBMIT:
        submit(fake, request);
        return;
    case PROTO_LEASE_RETURN:
        lease_return(fake, request);
        return;
    default:
        trainer_request(fake, request, type);
    }
}

static void on_request(struct proto_request *request, void *context)
{
    struct fake *fake = context;
    pthread_mutex_lock(&fake->lock);
    dispatch(fake, request, proto_request_envelope(request)->type);
    pthread_mutex_unlock(&fake->lock);
}

/* ---- life ---- */

static void on_closed(void *context)
{
    struct fake *fake = context;
    uv_close((uv_handle_t *)&fake->stop, NULL);
}

static void on_stop(uv_async_t *async)
{
    struct fake *fake = async->data;
    proto_server_close(fake->server, on_closed, fake);
}

static void *run(void *argument)
{
    struct fake *fake = argument;
    uv_run(&fake->loop, UV_RUN_DEFAULT);
    return NULL;
}

void fake_start(struct fake *fake, const char *const *settings)
{
    struct sp_error err = {0};
    struct proto_tls tls = {0};
    memset(fake, 0, sizeof(*fake));
    snprintf(fake->dir, sizeof(fake->dir), "/tmp/spin-fake-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(fake->dir));
    snprintf(fake->url, sizeof(fake->url), "ipc://%s/socket", fake->dir);
    pthread_mutex_init(&fake->lock, NULL);
    atomic_store(&fake->available, FAKE_PAIRS);
    for (int i = 0; i < FAKE_PAIRS; i++)
        fake->ref_real[i] = fake->ref_generated[i] = nanf("");
    make_checkpoint(fake);
    make_settings(fake, settings);
    uv_loop_init(&fake->loop);
    uv_async_init(&fake->loop, &fake->stop, on_stop);
    fake->stop.data = fake;
    enum sp_err rc =
        proto_server_start(&fake->loop, fake->url, &tls, 8, on_request, fake, &fake->server, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    pthread_create(&fake->thread, NULL, run, fake);
}

void fake_stop(struct fake *fake)
{
    struct sp_error err;
    uv_async_send(&fake->stop);
    pthread_join(fake->thread, NULL);
    uv_loop_close(&fake->loop);
    ckpt_blobs_close(fake->blobs);
    free(fake->settings);
    for (int i = 0; i < FAKE_PAIRS; i++)
        free((void *)(uintptr_t)fake->results[i].ids.ids);
    ck_assert_int_eq(sp_remove_tree(fake->dir, &err), SP_OK);
}

void fake_wait_u(const atomic_uint *value, unsigned least)
{
    int64_t end_ms = sp_now_ms() + WAIT_MS;
    while (atomic_load(value) < least) {
        ck_assert_msg(sp_now_ms() < end_ms, "waited in vain for %u (have %u)", least,
                      atomic_load(value));
        sp_sleep_ms(2);
    }
}

void fake_wait_true(const atomic_bool *value)
{
    int64_t end_ms = sp_now_ms() + WAIT_MS;
    while (!atomic_load(value)) {
        ck_assert_msg(sp_now_ms() < end_ms, "waited in vain");
        sp_sleep_ms(2);
    }
}
