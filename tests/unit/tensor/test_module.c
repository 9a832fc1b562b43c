/* Backends that are modules: what is said when there is none, or one that doesn't fit. */
#include "tests/unit/check_main.h"

#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/explain.h"
#include "common/tensor/module.h"

static char folder[] = "/tmp/spin-modules-XXXXXX";

static void make_folder(void)
{
    strcpy(folder + sizeof(folder) - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static char *module_file(void)
{
    return sp_xprintf("%s/spin-cuda.so", folder);
}

static void remove_folder(void)
{
    char *file = module_file();
    unlink(file);
    rmdir(folder);
    free(file);
}

static void link_module(const char *target)
{
    char *file = module_file();
    ck_assert_int_eq(symlink(target, file), 0);
    free(file);
}

static void expect(const char *name, const char *path, enum sp_err code, const char *part,
                   const char *remedy)
{
    struct tn_backend_options options = {.module_path = path};
    struct tn_backend *backend = NULL;
    struct sp_error err = {0};
    enum sp_err rc = tn_open(name, &options, &backend, &err);
    ck_assert_msg(rc == code, "%s: %s, not %s", err.text, sp_err_name(rc), sp_err_name(code));
    ck_assert_msg(strstr(err.text, part) && strstr(err.text, remedy) && strstr(err.text, name),
                  "\"%s\" lacks \"%s\", \"%s\" or the name", err.text, part, remedy);
    ck_assert_ptr_null(backend);
}

START_TEST(no_module)
{
    expect("cuda", folder, SP_ENOTFOUND, "no module", "install spin's package for cuda");
    expect("cuda-fp32", folder, SP_ENOTFOUND, folder, "use backend = cpu");
    expect("cuda", "modules", SP_EINVAL, "\"modules\"", "absolute");
    char class[TN_CLASS_BYTES] = "untouched";
    struct sp_error err = {0};
    setenv("SPIN_MODULE_PATH", folder, 1);
    ck_assert_int_eq(tn_numerics_class("cuda", class, &err), SP_ENOTFOUND);
    ck_assert_str_eq(class, "untouched");
    expect("cuda", NULL, SP_ENOTFOUND, folder, "SPIN_MODULE_PATH");
    expect("cuda", "", SP_ENOTFOUND, folder, "SPIN_MODULE_PATH");
    unsetenv("SPIN_MODULE_PATH");
    expect("cuda", NULL, SP_ENOTFOUND, "/spin/spin-cuda.so", "install");
}
END_TEST

START_TEST(module_of_another_version)
{
    link_module(FAKE_OTHER);
    expect("cuda", folder, SP_EVERSION, "is of spin 0.0.1", "install both from the same version");
}
END_TEST

START_TEST(library_that_is_no_module)
{
    link_module(FAKE_NONE);
    expect("cuda", folder, SP_EUNSUPPORTED, "no module of spin", "spin_tensor_module");
}
END_TEST

START_TEST(file_that_cannot_be_loaded)
{
    char *file = module_file();
    FILE *f = fopen(file, "w");
    ck_assert_ptr_nonnull(f);
    fputs("not a shared object", f);
    fclose(f);
    expect("cuda", folder, SP_EUNSUPPORTED, file, "install the library that is named");
    free(file);
}
END_TEST

/* Sorted lists of all rows do not fit: rows are drawn one after the other, and as they would be. */
static void draw_with_little_memory(struct tn_backend *backend)
{
    enum { ROWS = 24, VOCABULARY = 3000 };
    static float logits[ROWS * VOCABULARY];
    struct tn_sample_params params[ROWS];
    struct tn_sample_key keys[ROWS];
    int32_t ids[ROWS], single;
    float *there = backend->ops->alloc(backend, SP_COUNT(logits), sizeof(*logits));
    ck_assert_ptr_nonnull(there);
    for (int32_t i = 0; i < ROWS * VOCABULARY; i++)
        logits[i] = (float)((uint32_t)i * 2654435761u >> 20) / 512.0f;
    backend->ops->upload(backend, there, logits, sizeof(logits));
    for (uint32_t i = 0; i < ROWS; i++) {
        params[i] = (struct tn_sample_params){.temperature = 1, .top_k = 100, .top_p = 0.9f};
        keys[i] = (struct tn_sample_key){.seed = 3, .prompt = i};
    }
    backend->ops->sample(backend, ids, there, ROWS, VOCABULARY, params, keys);
    for (int32_t i = 0; i < ROWS; i++) {
        backend->ops->sample(backend, &single, there + i * VOCABULARY, 1, VOCABULARY, &params[i],
                             &keys[i]);
        ck_assert_int_eq(ids[i], single);
    }
    backend->ops->free(backend, there);
}

/* The module of this build, whose kernels the host runs. */
START_TEST(module_of_this_version)
{
    static const char *const names[] = {"cuda", "cuda-fp32"};
    setenv("SPIN_EMULATE_MIB", "1", 1);
    for (int i = 0; i < 2; i++) {
        struct tn_backend_options options = {.module_path = EMULATED};
        struct tn_backend *backend = NULL;
        struct sp_error err = {0};
        char class[TN_CLASS_BYTES];
        ck_assert_msg(tn_open(names[i], &options, &backend, &err) == SP_OK, "%s", err.text);
        ck_assert_str_eq(backend->name, names[i]);
        ck_assert_ptr_nonnull(strstr(backend->device, "emulated"));
        setenv("SPIN_MODULE_PATH", EMULATED, 1);
        ck_assert_int_eq(tn_numerics_class(names[i], class, &err), SP_OK);
        ck_assert_str_eq(class, backend->numerics_class);
        unsetenv("SPIN_MODULE_PATH");
        /* A device that is full: nothing is given, and what was free still is. */
        ck_assert_ptr_null(backend->ops->alloc(backend, 2, 1 << 20));
        ck_assert_ptr_null(backend->ops->alloc(backend, SIZE_MAX, 8));
        void *memory = backend->ops->alloc(backend, 1, 1 << 20);
        ck_assert_ptr_nonnull(memory);
        ck_assert(!backend->ops->reserve(backend, 64, 64, 4, 16, 64));
        backend->ops->free(backend, memory);
        ck_assert(backend->ops->reserve(backend, 64, 64, 4, 16, 64));
        struct tn_usage usage;
        tn_usage(backend, &usage);
        ck_assert_uint_eq(usage.memory_total, 1 << 20);
        ck_assert_uint_eq(usage.memory_free + usage.memory_used, 1 << 20);
        ck_assert_uint_gt(usage.memory_used, 0);
        ck_assert_uint_eq(usage.own_peak, 1 << 20);
        ck_assert_double_eq(usage.busy, 0.5);
        draw_with_little_memory(backend);
        tn_close(backend);
    }
    unsetenv("SPIN_EMULATE_MIB");
}
END_TEST

START_TEST(what_keeps_a_device_from_opening)
{
    static const struct {
        struct cuda_trouble trouble;
        enum sp_err code;
        const char *cause, *remedy;
    } cases[] = {
        {{CUDA_OLD_DRIVER, 0, 13000, NULL, ""},
         SP_EUNSUPPORTED,
         "no NVIDIA driver on this machine",
         "install one for CUDA 13"},
        {{CUDA_OTHER, 0, 13000, NULL, ""}, SP_EUNSUPPORTED, "libcuda.so.1 is missing", "CUDA 13"},
        {{CUDA_OLD_DRIVER, 12040, 13000, NULL, ""},
         SP_EUNSUPPORTED,
         "driver is of CUDA 12.4, needed is 13.0",
         "upgrade the driver"},
        {{CUDA_NO_DEVICE, 13000, 13000, NULL, ""},
         SP_EUNSUPPORTED,
         "no NVIDIA device",
         "CUDA_VISIBLE_DEVICES"},
        {{CUDA_NO_MEMORY, 13000, 13000, "H100", ""},
         SP_ENOMEM,
         "H100 has no memory left",
         "nvidia-smi shows who has it"},
        {{CUDA_NO_KERNELS, 13000, 13000, "V100", ""},
         SP_EUNSUPPORTED,
         "no kernels for V100",
         "-Dgpu_archs"},
        {{CUDA_OTHER, 13000, 13000, "H100", "broken in two"},
         SP_EUNSUPPORTED,
         "H100 does not start: broken in two",
         "dmesg"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct sp_error err = {0};
        ck_assert_int_eq(cuda_explain(&cases[i].trouble, &err), cases[i].code);
        ck_assert_msg(strstr(err.text, cases[i].cause) && strstr(err.text, cases[i].remedy),
                      "\"%s\" lacks \"%s\" or \"%s\"", err.text, cases[i].cause, cases[i].remedy);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("module");
    TCase *tcase = tcase_create("module");
    tcase_add_checked_fixture(tcase, make_folder, remove_folder);
    tcase_add_test(tcase, no_module);
    tcase_add_test(tcase, module_of_another_version);
    tcase_add_test(tcase, library_that_is_no_module);
    tcase_add_test(tcase, file_that_cannot_be_loaded);
    tcase_add_test(tcase, module_of_this_version);
    tcase_add_test(tcase, what_keeps_a_device_from_opening);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())
