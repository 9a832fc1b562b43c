/* A state directory in a temporary folder with one small run, for the tests of the store. */
#ifndef SPIN_TESTS_STORE_FIXTURE_H
#define SPIN_TESTS_STORE_FIXTURE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "coordinator/store/store_run.h"
#include "tests/unit/check_main.h"

#define FX_TRAIN 40
#define FX_HOLDOUT 5
#define FX_EVAL 3

struct fx {
    char dir[64];
    struct sp_error err;
    struct sp_arena *arena;
    struct store *store;
    struct store_run *run;
};

#define OK(expression)                                                                             \
    do {                                                                                           \
        enum sp_err ok_rc = (expression);                                                          \
        ck_assert_msg(ok_rc == SP_OK, "%s: %s: %s", #expression, sp_err_name(ok_rc), fx.err.text); \
    } while (0)
#define FAILS(code, expression)                                                                    \
    do {                                                                                           \
        enum sp_err fails_rc = (expression);                                                       \
        ck_assert_msg(fails_rc == (code), "%s: %s, expected %s: %s", #expression,                  \
                      sp_err_name(fails_rc), #code, fx.err.text);                                  \
    } while (0)

__attribute__((unused)) static void fx_digest(struct sp_digest *ret, const char *text)
{
    sp_sha256_of(text, strlen(text), ret);
}

__attribute__((unused)) static enum sp_err fx_add_prompts(struct store_builder *builder,
                                                          enum store_split split, uint32_t n,
                                                          struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    for (uint32_t i = 0; i < n && rc == SP_OK; i++) {
        int32_t prompt[3] = {(int32_t)split, (int32_t)i, 7}, real[2] = {(int32_t)i + 100, 2};
        int32_t rejected[1] = {(int32_t)i + 200};
        struct store_prompt row = {
            .index = i,
            .prompt_ids = {prompt, 3},
            .real_ids = {real, i % 2 ? 2 : 1},
            .rejected_ids = {rejected, split == STORE_SPLIT_TRAIN ? 1 : 0},
            .response = split == STORE_SPLIT_EVAL ? "answer" : "",
        };
        rc = store_builder_add(builder, split, &row, err);
    }
    return rc;
}

/* The file of a run, not adopted yet. */
__attribute__((unused)) static enum sp_err fx_build(const char *dir, const char *name,
                                                    const struct store_options *options,
                                                    struct sp_error *err)
{
    struct store_builder *builder = NULL;
    enum sp_err rc = store_builder_open(dir, name, options, &builder, err);
    if (rc == SP_OK)
        rc = fx_add_prompts(builder, STORE_SPLIT_TRAIN, FX_TRAIN, err);
    if (rc == SP_OK)
        rc = fx_add_prompts(builder, STORE_SPLIT_HOLDOUT, FX_HOLDOUT, err);
    if (rc == SP_OK)
        rc = fx_add_prompts(builder, STORE_SPLIT_EVAL, FX_EVAL, err);
    struct store_run_info info = {
        .name = name, .created_ms = 1000, .settings = "{\"a\":1}", .data = "{}"};
    fx_digest(&info.base, "base");
    fx_digest(&info.base_manifest, "base manifest");
    if (rc == SP_OK)
        rc = store_builder_refs(builder, "base", &info.base_manifest, 1, err);
    if (rc == SP_OK)
        rc = store_builder_finish(builder, &info, err);
    store_builder_free(builder);
    return rc;
}

__attribute__((unused)) static struct fx fx_new(const char *run_name)
{
    struct fx fx = {0};
    /* In memory where possible: an fsync costs nothing there, and tests/sim loses power for us. */
    bool memory = access("/dev/shm", W_OK) == 0;
    snprintf(fx.dir, sizeof(fx.dir), "%s/spin-store-XXXXXX", memory ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(fx.dir));
    fx.arena = sp_arena_new(1 << 16, 64 << 20);
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    if (run_name) {
        OK(fx_build(fx.dir, run_name, NULL, &fx.err));
        store_begin(fx.store);
        OK(store_run_adopt(fx.store, run_name, &fx.err));
        OK(store_commit(fx.store, &fx.err));
        OK(store_run_open(fx.store, run_name, &fx.run, &fx.err));
    }
    return fx;
}

__attribute__((unused)) static void fx_free(struct fx *fx)
{
    store_close(fx->store);
    sp_arena_free(fx->arena);
    struct sp_error err;
    ck_assert_int_eq(sp_remove_tree(fx->dir, &err), SP_OK);
}

__attribute__((unused)) static void fx_reopen(struct fx *old, const char *run_name)
{
    struct fx fx = *old;
    store_close(fx.store);
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    if (run_name)
        OK(store_run_open(fx.store, run_name, &fx.run, &fx.err));
    *old = fx;
}

/* A result whose content follows from its position. ids: room for 4. */
__attribute__((unused)) static struct store_result fx_result(uint64_t position, int32_t *ids)
{
    for (int i = 0; i < 4; i++)
        ids[i] = (int32_t)position * 10 + i;
    return (struct store_result){
        .set = PROTO_SET_TRAIN,
        .position = position,
        .prompt = (uint32_t)position,
        .ids = {ids, 1 + (uint32_t)position % 4},
        .finish = PROTO_FINISH_STOP,
        .ref_real = -1.5f - (float)position,
        .ref_generated = -2.25f - (float)position,
        .worker = position % 2 ? "gen-1" : "gen-2",
        .at_ms = 5,
    };
}

#endif
