#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/spin-model/tool.h"

static enum sp_err read_stdin(size_t max_bytes, char **ret, size_t *ret_length,
                              struct sp_error *err)
{
    struct sp_buf buf = SP_BUF_INIT;
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof(block), stdin)) > 0) {
        sp_buf_append(&buf, block, n);
        if (buf.length > max_bytes) {
            sp_buf_deinit(&buf);
            return sp_fail(err, SP_ELIMIT, "standard input: more than %zu bytes", max_bytes);
        }
    }
    if (ferror(stdin)) {
        sp_buf_deinit(&buf);
        return sp_fail_errno(err, errno, "standard input");
    }
    *ret_length = buf.length;
    *ret = sp_buf_detach(&buf);
    return SP_OK;
}

enum sp_err tool_read_all(const char *path, size_t max_bytes, char **ret, size_t *ret_length,
                          struct sp_error *err)
{
    if (strcmp(path, "-") == 0)
        return read_stdin(max_bytes, ret, ret_length, err);
    return sp_read_file(path, max_bytes, ret, ret_length, err);
}

enum sp_err tool_print(const char *data, size_t length, struct sp_error *err)
{
    if (fwrite(data, 1, length, stdout) != length || fflush(stdout) != 0)
        return sp_fail_errno(err, errno, "standard output");
    return SP_OK;
}

enum sp_err tool_print_json(json_t *value, struct sp_error *err)
{
    /* 9 digits give every fp32 number back exactly. */
    char *text = json_dumps(value, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    json_decref(value);
    SP_ASSERT(text != NULL);
    enum sp_err rc = tool_print(text, strlen(text), err);
    if (rc == SP_OK)
        rc = tool_print("\n", 1, err);
    free(text);
    return rc;
}

json_t *tool_ids_to_json(const int32_t *ids, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}
