/* messages: the structs of every message, and their encoding in msgpack inside an envelope.
 *
 * A decoded message lives in the arena given to the decoder; strings and arrays in it point there.
 * Decoding is safe on any bytes: a scan without recursion bounds depth, objects and counts before
 * anything is reserved. Any thread. */
#ifndef SPIN_PROTO_MESSAGES_H
#define SPIN_PROTO_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "proto/messages.def"

#define PROTO_VERSION 1
/* Peers one version older or newer are understood: an absent field is 0, an unknown one is ignored,
 * and a reply has the version of its request where that is the older one. There is no version 0. */
#define PROTO_VERSION_OLDEST (PROTO_VERSION > 1 ? PROTO_VERSION - 1 : 1)
#define PROTO_VERSION_NEWEST (PROTO_VERSION + 1)

enum proto_role {
    PROTO_ROLE_ADMIN = 1,
    PROTO_ROLE_TRAINER = 2,
    PROTO_ROLE_GENERATOR = 3,
    PROTO_ROLE_READONLY = 4,
};

/* What a work item's result belongs to. Positions count from 0 in each set. */
enum proto_set {
    PROTO_SET_TRAIN = 0,          /* pairs of the iteration's plan */
    PROTO_SET_HOLDOUT = 1,        /* held-out prompts: sample and score under the opponent */
    PROTO_SET_HOLDOUT_PLAYER = 2, /* the same pairs scored under the new checkpoint */
    PROTO_SET_EVAL_GREEDY = 3,    /* evaluation prompts, greedy, under the new checkpoint */
    PROTO_SET_EVAL_SAMPLED = 4,   /* evaluation prompts, at the run's temperature */
    PROTO_SET_BASE_GREEDY = 5,    /* the same under the base; iteration 0 only */
    PROTO_SET_BASE_SAMPLED = 6,
    PROTO_SET_TRAINED = 7, /* a sample of the trained pairs scored under the new checkpoint */
};

/* Storage of the weights in generators; "both": what they are multiplied with is rounded too. */
enum proto_weights { PROTO_WEIGHTS_F32 = 0, PROTO_WEIGHTS_BF16 = 1, PROTO_WEIGHTS_BF16_BOTH = 2 };
enum proto_work_kind { PROTO_WORK_SAMPLE = 1, PROTO_WORK_SCORE = 2 };
enum proto_finish { PROTO_FINISH_NONE = 0, PROTO_FINISH_STOP = 1, PROTO_FINISH_LENGTH = 2 };
enum proto_trainer_command {
    PROTO_TRAINER_GO_ON = 0,
    PROTO_TRAINER_PAUSE = 1,  /* snapshot, release, ask for a lease again */
    PROTO_TRAINER_CANCEL = 2, /* drop the work, release */
};

/* How asking another worker for a chunk ended. */
enum proto_outcome {
    PROTO_OUTCOME_GOT = 0,     /* or nobody was asked */
    PROTO_OUTCOME_ABSENT = 1,  /* it does not have it, or refused */
    PROTO_OUTCOME_SILENT = 2,  /* no connection, or no answer in time */
    PROTO_OUTCOME_POISONED = 3 /* other bytes than the manifest says */
};

struct proto_bytes {
    const uint8_t *data;
    uint32_t length;
};
struct proto_ids {
    const int32_t *ids;
    uint32_t count;
};
struct proto_u64s {
    const uint64_t *values;
    uint32_t count;
};
struct proto_f32s {
    const float *values;
    uint32_t count;
};

#define PROTO_CTYPE_U32 uint32_t
#define PROTO_CTYPE_I32 int32_t
#define PROTO_CTYPE_U64 uint64_t
#define PROTO_CTYPE_I64 int64_t
#define PROTO_CTYPE_F32 float
#define PROTO_CTYPE_F64 double
#define PROTO_CTYPE_BOOL bool
#define PROTO_CTYPE_STR const char * /* NULL encodes as "", decodes as "" */
#define PROTO_CTYPE_BYTES struct proto_bytes
#define PROTO_CTYPE_DIGEST struct sp_digest
#define PROTO_CTYPE_IDS struct proto_ids
#define PROTO_CTYPE_U64S struct proto_u64s
#define PROTO_CTYPE_F32S struct proto_f32s

#define PROTO_FIELD(kind, name, help) PROTO_CTYPE_##kind name;
#define PROTO_LIST(item, name, help)                                                               \
    struct proto_##item *name;                                                                     \
    uint32_t name##_count;
#define PROTO_ITEM_STRUCT(name, NAME)                                                              \
    struct proto_##name {                                                                          \
        PROTO_##NAME##_FIELDS(PROTO_FIELD, PROTO_LIST)                                             \
    };
#define PROTO_MESSAGE_STRUCT(name, NAME, number) PROTO_ITEM_STRUCT(name, NAME)
PROTO_ITEMS(PROTO_ITEM_STRUCT)
PROTO_MESSAGES(PROTO_MESSAGE_STRUCT)
#undef PROTO_FIELD
#undef PROTO_LIST
#undef PROTO_ITEM_STRUCT
#undef PROTO_MESSAGE_STRUCT

#define PROTO_TYPE_ENUM(name, NAME, number) PROTO_##NAME = number,
enum proto_type { PROTO_NONE = 0, PROTO_MESSAGES(PROTO_TYPE_ENUM) };
#undef PROTO_TYPE_ENUM
#define PROTO_TYPE_END 128 /* above every number, for tables by type */
#define PROTO_TYPE_BELOW_END(name, NAME, number)                                                   \
    _Static_assert((number) < PROTO_TYPE_END, "raise PROTO_TYPE_END");
PROTO_MESSAGES(PROTO_TYPE_BELOW_END)
#undef PROTO_TYPE_BELOW_END

/* Around every message. */
struct proto_envelope {
    uint32_t version;        /* PROTO_VERSION */
    enum proto_type type;    /* of the body */
    uint64_t request_id;     /* chosen by the asker; comes back in the reply; for logs */
    const char *token;       /* requests: "id.secret"; replies: "" */
    enum sp_err status;      /* replies: SP_OK, or why not (then there is no body) */
    const char *text;        /* replies: detail of status */
    uint32_t retry_after_ms; /* replies: with SP_EUNAVAIL, when to come back */
};

/* Appends envelope and body to out. body: struct proto_<type> *, or NULL for an error reply. */
void proto_encode(const struct proto_envelope *envelope, const void *body, struct sp_buf *out);
/* ret_body points to a struct proto_<envelope.type> in the arena, NULL for an error reply.
 * SP_EFORMAT: malformed (the text names the message and the field); SP_EVERSION; SP_ELIMIT. */
enum sp_err proto_decode(const void *data, size_t length, struct sp_arena *arena,
                         struct proto_envelope *ret_envelope, void **ret_body,
                         struct sp_error *err) SP_MUST_USE;
const char *proto_type_name(enum proto_type type); /* "lease_reply", or "unknown" */

#endif
