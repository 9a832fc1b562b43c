#include "tests/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"

#define CONFIG_JSON "{\"vocab_size\": 500, \"eos_token_id\": 2}"

static const char world_settings[] =
    "[run]\nname = " WORLD_RUN "\nseed = 5\n[data]\ntrain = t\nmax_prompt_tokens = 16\n"
    "max_sequence_tokens = 32\n[model]\nbase = b\n[generate]\nmax_new_tokens = 8\n"
    "[train]\nbatch_pairs = 4\nepochs = 2\nsnapshot_steps = 2\n"
    "[verdict]\nmin_pairs = 2\ntrained_sample = 3\n";

void world_check(struct world *world, enum sp_err rc, const char *what)
{
    if (rc == SP_OK)
        return;
    fprintf(stderr, "world: %s: %s: %s\n", what, sp_err_name(rc), world->err.text);
    abort();
}

/* On a disk in memory where there is one: fsync costs nothing there, and its order still counts. */
static const char *temporary_root(void)
{
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

static void put_base(struct world *world, struct store_run_info *info)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf text = SP_BUF_INIT;
    char *path = sp_path_join(world->dir, "config.json");
    world_check(world,
                sp_write_file_durable(path, CONFIG_JSON, strlen(CONFIG_JSON), 0600, &world->err),
                "config");
    world_check(
        world,
        ckpt_blobs_put_file(world->blobs, path, "config.json", NULL, NULL, &manifest, &world->err),
        "base");
    ckpt_manifest_format(&manifest, &text);
    world_check(
        world,
        ckpt_blobs_put_new(world->blobs, text.data, text.length, &info->base_manifest, &world->err),
        "manifest");
    info->base = manifest.digest;
    sp_buf_deinit(&text);
    ckpt_manifest_deinit(&manifest);
    free(path);
}

static void add_prompts(struct world *world, struct store_builder *builder, enum store_split split,
                        uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        int32_t prompt[3] = {10 + (int32_t)split, 20 + (int32_t)(i % 400), 30};
        int32_t real[4] = {40 + (int32_t)(i % 50), 41, 42, 2};
        int32_t rejected[2] = {90 + (int32_t)(i % 50), 2};
        uint32_t skip = i % 3; /* lengths differ */
        struct store_prompt row = {
            .index = i,
            .prompt_ids = {prompt, 3},
            .real_ids = {real + skip, 4 - skip},
            .rejected_ids = {rejected, 2},
            .response = "answer",
        };
        world_check(world, store_builder_add(builder, split, &row, &world->err), "prompt");
    }
}

static char *settings_json(struct world *world, const char *extra)
{
    struct run_settings settings;
    sp_config_init(&run_settings_spec, &settings);
    world_check(world,
                sp_config_parse(&run_settings_spec, world_settings, strlen(world_settings), "world",
                                &settings, &world->err),
                "settings");
    if (extra)
        world_check(world,
                    sp_config_parse(&run_settings_spec, extra, strlen(extra), "extra", &settings,
                                    &world->err),
                    "settings");
    json_t *json = sp_config_to_json(&run_settings_spec, &settings);
    char *text = sp_json_canonical(json);
    json_decref(json);
    sp_config_deinit(&run_settings_spec, &settings);
    return text;
}

static void make_run(struct world *world, const struct world_options *options)
{
    struct store_run_info info = {.name = WORLD_RUN, .created_ms = 1, .data = "{}"};
    struct store_builder *builder = NULL;
    put_base(world, &info);
    char *settings = settings_json(world, options->settings);
    info.settings = settings;
    world_check(
        world,
        store_builder_open(world->dir, WORLD_RUN, &world->store_options, &builder, &world->err),
        "builder");
    add_prompts(world, builder, STORE_SPLIT_TRAIN, options->train);
    add_prompts(world, builder, STORE_SPLIT_HOLDOUT, options->holdout);
    add_prompts(world, builder, STORE_SPLIT_EVAL, options->eval);
    world_check(world, store_builder_finish(builder, &info, &world->err), "finish");
    store_builder_free(builder);
    free(settings);
    store_begin(world->store);
    world_check(world, store_run_adopt(world->store, WORLD_RUN, &world->err), "adopt");
    world_check(world, store_commit(world->store, &world->err), "commit");
}

enum sp_err world_try_open(struct world *world)
{
    enum sp_err rc = store_open(world->dir, &world->store_options, &world->store, &world->err);
    if (rc == SP_OK)
        rc = ckpt_blobs_open(world->dir, NULL, &world->blobs, &world->err);
    if (rc != SP_OK)
        world_close(world);
    return rc;
}

void world_open(struct world *world)
{
    world_check(world, world_try_open(world), "open");
}

void world_close(struct world *world)
{
    store_close(world->store);
    ckpt_blobs_close(world->blobs);
    world->store = NULL;
    world->blobs = NULL;
}

void world_make(struct world *world, const struct world_options *options)
{
    *world = (struct world){.store_options = {.vfs = options->vfs, .skip_check = true}};
    snprintf(world->dir, sizeof(world->dir), "%s/spin-world-XXXXXX", temporary_root());
    if (!mkdtemp(world->dir)) {
        perror(world->dir);
        abort();
    }
    world_open(world);
    make_run(world, options);
}

void world_remove(struct world *world)
{
    world_close(world);
    world_check(world, sp_remove_tree(world->dir, &world->err), "remove");
}

struct coord_core *world_try_core(struct world *world, const struct coord_options *options,
                                  int64_t now_ms)
{
    struct coord_core *core = coord_core_new(options);
    struct coord_loaded loaded;
    enum sp_err rc = coord_load_run(world->store, world->blobs, WORLD_RUN, &loaded, &world->err);
    if (rc == SP_OK)
        rc = coord_load_add(core, &loaded, now_ms, &world->err);
    if (rc == SP_OK)
        return core;
    coord_core_free(core);
    return NULL;
}

struct coord_core *world_core(struct world *world, const struct coord_options *options,
                              int64_t now_ms)
{
    struct coord_core *core = world_try_core(world, options, now_ms);
    world_check(world, core ? SP_OK : world->err.code, "load");
    struct sp_arena *arena = sp_arena_new(4096, 1 << 20);
    struct store_hold *holds;
    size_t count = 0;
    world_check(world, store_holds_list(world->store, arena, &holds, &count, &world->err), "holds");
    for (size_t i = 0; i < count; i++)
        coord_core_add_hold(core, &holds[i]);
    sp_arena_free(arena);
    return core;
}
