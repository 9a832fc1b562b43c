/* libFuzzer target: any bytes as a message. What decodes is encoded and decoded again, and must be
 * the same message. Seeds: fuzz_message_seeds DIR. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "proto/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sp_arena *arena = sp_arena_new(4096, 4 << 20);
    struct sp_error err = {.code = SP_OK, .text = ""};
    struct proto_envelope envelope;
    void *body;
    struct sp_buf first = SP_BUF_INIT, second = SP_BUF_INIT;
    enum sp_err rc = proto_decode(data, size, arena, &envelope, &body, &err);
    SP_ASSERT(rc == SP_OK || (err.code == rc && err.text[0] != 0));
    if (rc == SP_OK) {
        proto_encode(&envelope, body, &first);
        rc = proto_decode(first.data, first.length, arena, &envelope, &body, &err);
        /* The second copy may not fit into the arena beside the first. */
        SP_ASSERT(rc == SP_OK || rc == SP_ELIMIT);
        if (rc == SP_OK) {
            proto_encode(&envelope, body, &second);
            SP_ASSERT(first.length == second.length &&
                      memcmp(first.data, second.data, first.length) == 0);
        }
    }
    sp_buf_deinit(&first);
    sp_buf_deinit(&second);
    sp_arena_free(arena);
    return 0;
}
