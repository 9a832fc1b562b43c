/* libFuzzer target: any bytes as a manifest. What parses is written and parsed again, and must be
 * the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/checkpoint/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ckpt_manifest one = CKPT_MANIFEST_INIT, two = CKPT_MANIFEST_INIT;
    struct sp_buf first = SP_BUF_INIT, second = SP_BUF_INIT;
    struct sp_error err = {.code = SP_OK, .text = ""};
    char *text = sp_xmemdup(data, size + (size == 0)); /* not terminated: no reading beyond */
    enum sp_err rc = ckpt_manifest_parse(text, size, &one, &err);
    SP_ASSERT(rc == SP_OK || (err.code == rc && err.text[0] != 0));
    if (rc == SP_OK) {
        ckpt_manifest_format(&one, &first);
        SP_ASSERT(ckpt_manifest_parse(first.data, first.length, &two, &err) == SP_OK);
        ckpt_manifest_format(&two, &second);
        SP_ASSERT(first.length == second.length &&
                  memcmp(first.data, second.data, first.length) == 0);
        SP_ASSERT(sp_digest_equal(&one.digest, &two.digest));
        for (size_t f = 0; f < one.count; f++) {
            uint64_t bytes = 0;
            for (uint32_t c = 0; c < one.files[f].chunk_count; c++)
                bytes += ckpt_chunk_bytes(&one.files[f], c);
            SP_ASSERT(bytes == one.files[f].bytes);
        }
    }
    ckpt_manifest_deinit(&one);
    ckpt_manifest_deinit(&two);
    sp_buf_deinit(&first);
    sp_buf_deinit(&second);
    free(text);
    return 0;
}
