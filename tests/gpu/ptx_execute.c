/* What instructions do: see the PTX ISA, whose words are used. */
#include <math.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "tests/gpu/ptx_machine.h"

/* --- what ptx_ops.h uses --- */

static bool divided_by_zero;

static int32_t ptx_zero(void)
{
    divided_by_zero = true;
    return 0;
}

static inline float ptx_flush(float x)
{
    return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; /* NaN stays */
}

/* max: of a number and NaN the number; +0 is larger than -0 */
static inline float ptx_larger(float a, float b)
{
    if (isnan(a))
        return b;
    if (isnan(b))
        return a;
    if (a == b)
        return signbit(a) ? b : a;
    return a > b ? a : b;
}

static uint32_t ptx_prmt(uint32_t a, uint32_t b, uint32_t select)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t to = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t s = select >> (4 * i) & 15;
        uint32_t byte = (uint32_t)(bytes >> (8 * (s & 7))) & 0xff;
        if (s & 8)
            byte = byte & 0x80 ? 0xff : 0;
        to |= byte << (8 * i);
    }
    return to;
}

/* --- operands --- */

static void *at(const struct ptx_machine *m, const struct ptx_op *op, int i)
{
    return m->warp->file + op->operand[i].at;
}

static uint64_t number(const struct ptx_machine *m, const struct ptx_op *op, int i, uint32_t lane)
{
    return op->operand[i].width == PTX_8 ? ((const uint64_t *)at(m, op, i))[lane]
                                         : ((const uint32_t *)at(m, op, i))[lane];
}

static void put(struct ptx_machine *m, const struct ptx_op *op, int i, uint32_t lane,
                uint64_t value)
{
    if (op->operand[i].width == PTX_8)
        ((uint64_t *)at(m, op, i))[lane] = value;
    else
        ((uint32_t *)at(m, op, i))[lane] = (uint32_t)value;
}

/* Predicates are bits of a word; lanes that don't execute keep theirs. */
static void set_lanes(uint32_t *to, uint32_t lanes, uint32_t bits)
{
    *to = (*to & ~lanes) | (bits & lanes);
}

uint32_t ptx_mask_of(struct ptx_machine *m, const struct ptx_op *op, int i)
{
    return (uint32_t)number(m, op, i, (uint32_t)__builtin_ctz(m->group->lanes));
}

/* --- memory --- */

static const char *const verbs[] = {[PTX_READ] = "reads",
                                    [PTX_READ_TILE] = "reads",
                                    [PTX_WRITE] = "writes",
                                    [PTX_FETCH] = "copies to",
                                    [PTX_FETCHED] = "has copied to"};

static void check(struct ptx_machine *m, struct ptx_region *r, uint64_t offset, uint32_t lane,
                  size_t bytes, enum ptx_access access)
{
    const struct ptx_actor actor = {
        .launch = r == &m->ptx->shared ? m->block_phase : m->launch_phase, /* new in each block */
        .block = m->block_phase,
        .phase = m->ptx->phase,
        .part = m->warp->part,
        .thread = (uint8_t)ptx_thread(m, lane),
    };
    const char *what = ptx_region_access(r, offset, bytes, access, &actor);
    if (what)
        ptx_fault(m, (int)lane, "%s %zu bytes at %llu of %s memory: %s", verbs[access], bytes,
                  (unsigned long long)offset, r == &m->ptx->shared ? "shared" : "global", what);
}

static uint8_t *shared_at(struct ptx_machine *m, uint64_t address, uint32_t lane, size_t bytes,
                          enum ptx_access access)
{
    if (address % bytes != 0)
        ptx_fault(m, (int)lane, "%s %zu bytes at %llu of shared memory: no multiple", verbs[access],
                  bytes, (unsigned long long)address);
    if (address > m->shared_bytes || bytes > m->shared_bytes - address)
        ptx_fault(m, (int)lane, "%s %zu bytes at %llu of shared memory, which has %zu",
                  verbs[access], bytes, (unsigned long long)address, m->shared_bytes);
    check(m, &m->ptx->shared, address, lane, bytes, access);
    return m->ptx->shared.memory + address;
}

static uint8_t *global_at(struct ptx_machine *m, uint64_t address, uint32_t lane, size_t bytes,
                          enum ptx_access access)
{
    struct ptx_region *r = ptx_region_of(m->ptx, address);
    uint64_t offset = r ? address - (uint64_t)(uintptr_t)r->memory : 0;
    if (address % bytes != 0)
        ptx_fault(m, (int)lane, "%s %zu bytes at an address that is no multiple", verbs[access],
                  bytes);
    if (!r || offset > r->bytes || bytes > r->bytes - offset)
        ptx_fault(m, (int)lane, "%s %zu bytes in no memory (%llu behind the beginning of %zu)",
                  verbs[access], bytes, (unsigned long long)offset, r ? r->bytes : 0);
    check(m, r, offset, lane, bytes, access);
    return r->memory + offset;
}

static uint8_t *address_of(struct ptx_machine *m, const struct ptx_op *op, uint32_t lane,
                           size_t bytes, enum ptx_access access)
{
    uint64_t address = number(m, op, 0, lane) + (uint64_t)op->offset;
    if (op->operand[0].width == PTX_4)
        address = (uint32_t)address;
    if (op->space == PTX_SHARED)
        return shared_at(m, address, lane, bytes, access);
    if (op->space == PTX_GLOBAL)
        return global_at(m, address, lane, bytes, access);
    size_t room = op->space == PTX_PARAM ? m->launch->args_bytes : m->kernel->local_bytes;
    if (address % bytes != 0 || address > room || bytes > room - address)
        ptx_fault(m, (int)lane, "%s %zu bytes at %llu of its %s, which have %zu", verbs[access],
                  bytes, (unsigned long long)address,
                  op->space == PTX_PARAM ? "arguments" : "local variables", room);
    return op->space == PTX_PARAM ? (uint8_t *)(uintptr_t)m->launch->args + address
                                  : m->warp->local + lane * room + address;
}

static void load(struct ptx_machine *m, const struct ptx_op *op, uint32_t lane)
{
    const uint8_t *from = address_of(m, op, lane, (size_t)op->bytes * op->vector, PTX_READ);
    for (int i = 0; i < op->vector; i++, from += op->bytes) {
        uint64_t value = 0;
        memcpy(&value, from, op->bytes);
        if (op->is_signed && op->bytes < 8) {
            uint64_t sign = 1ull << (8 * op->bytes - 1);
            value = (value ^ sign) - sign;
        }
        put(m, op, 1 + i, lane, value);
    }
}

static void store(struct ptx_machine *m, const struct ptx_op *op, uint32_t lane)
{
    uint8_t *to = address_of(m, op, lane, (size_t)op->bytes * op->vector, PTX_WRITE);
    for (int i = 0; i < op->vector; i++, to += op->bytes) {
        uint64_t value = number(m, op, 1 + i, lane);
        memcpy(to, &value, op->bytes);
    }
}

/* cp.async to, from, bytes, bytes of the source: the source is read when somebody waits. */
static void fetch(struct ptx_machine *m, const struct ptx_op *op, uint32_t lane)
{
    uint32_t thread = ptx_thread(m, lane);
    if (number(m, op, 2, lane) != 16 || number(m, op, 3, lane) != 16)
        ptx_fault(m, (int)lane, "a copy of other than 16 bytes");
    if (m->n_fetches[thread] == PTX_FETCHES)
        ptx_fault(m, (int)lane, "more than %d copies under way", PTX_FETCHES);
    struct ptx_fetch *f = &m->fetches[thread][m->n_fetches[thread]++];
    f->to = (uint32_t)number(m, op, 0, lane);
    f->from = global_at(m, number(m, op, 1, lane), lane, 16, PTX_READ);
    shared_at(m, f->to, lane, 16, PTX_FETCH);
}

static void fetched(struct ptx_machine *m, const struct ptx_op *op, uint32_t lane)
{
    uint32_t thread = ptx_thread(m, lane);
    if (number(m, op, 0, lane) != 0)
        ptx_fault(m, (int)lane, "waits for some of its groups of copies only");
    for (int i = 0; i < m->n_fetches[thread]; i++) {
        const struct ptx_fetch *f = &m->fetches[thread][i];
        memcpy(shared_at(m, f->to, lane, 16, PTX_FETCHED), f->from, 16);
    }
    m->n_fetches[thread] = 0;
}

/* Where the lanes access memory, for the profile; of copies, where they go. */
static void count(struct ptx_machine *m, struct ptx_op *op, uint32_t lanes)
{
    uint64_t address[PTX_LANES];
    size_t bytes = op->code == PTX_LD || op->code == PTX_ST ? (size_t)op->bytes * op->vector : 16;
    bool matrix = op->code == PTX_LDMATRIX || op->code == PTX_LDMATRIX_TRANS;
    for (uint32_t lane = 0; lane < PTX_LANES; lane++)
        address[lane] = number(m, op, matrix ? 4 : 0, lane) + (uint64_t)op->offset;
    if (op->space == PTX_SHARED)
        ptx_count_shared(op, address, lanes, bytes);
    else if (op->space == PTX_GLOBAL)
        ptx_count_global(op, address, lanes, bytes);
}

/* --- together --- */

static void shuffle(struct ptx_machine *m, const struct ptx_op *op, uint32_t lanes)
{
    const uint32_t *a = at(m, op, 2);
    uint32_t got[PTX_LANES];
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
        uint32_t from = lane ^ ((uint32_t)number(m, op, 3, lane) & 31);
        if (number(m, op, 4, lane) != 31)
            ptx_fault(m, (int)lane, "a shuffle within parts of the warp");
        if (!(lanes >> from & 1))
            ptx_fault(m, (int)lane, "takes the number of a lane that isn't there");
        got[lane] = a[from];
    }
    memcpy(at(m, op, 0), got, sizeof(got));
    set_lanes(at(m, op, 1), lanes, PTX_ALL);
}

/* Part i of the matrix, line l of it: the address of lane 8 i + l. */
static void load_matrix(struct ptx_machine *m, const struct ptx_op *op, bool turned)
{
    uint16_t lines[PTX_LANES][8];
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
        uint64_t address = number(m, op, 4, lane) + (uint64_t)op->offset;
        memcpy(lines[lane], shared_at(m, address, lane, 16, PTX_READ_TILE), 16);
    }
    for (int i = 0; i < 4; i++)
        for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
            uint16_t(*part)[8] = lines + 8 * i;
            uint32_t line = lane / 4, column = lane % 4 * 2;
            uint32_t low = turned ? part[column][line] : part[line][column];
            uint32_t high = turned ? part[column + 1][line] : part[line][column + 1];
            ((uint32_t *)at(m, op, i))[lane] = high << 16 | low;
        }
}

static void unpack(float to[2], uint32_t word)
{
    to[0] = sp_bf16_to_f32((uint16_t)word);
    to[1] = sp_bf16_to_f32((uint16_t)(word >> 16));
}

/* d(16,8) = a(16,16)·b(16,8) + c; operands: d 0 to 3, a 4 to 7, b 8 and 9, c 10 to 13. Lane l has
 * of a row l / 4 (and 8 below in a1, a3), of b column l / 4, and k from l % 4 · 2 on (8 behind in
 * a2, a3, b1); of c and d row l / 4 (8 below in 2, 3), columns l % 4 · 2 and the next. */
static void multiply(struct ptx_machine *m, const struct ptx_op *op)
{
    float a[16][16], b[16][8], sum[16][8], two[2];
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
        uint32_t line = lane / 4, k = lane % 4 * 2;
        for (int i = 0; i < 4; i++)
            unpack(&a[line + i % 2 * 8][k + i / 2 * 8], ((const uint32_t *)at(m, op, 4 + i))[lane]);
        for (int i = 0; i < 2; i++) {
            unpack(two, ((const uint32_t *)at(m, op, 8 + i))[lane]);
            b[k + i * 8][line] = two[0];
            b[k + i * 8 + 1][line] = two[1];
        }
        for (int i = 0; i < 4; i++)
            sum[line + i / 2 * 8][k + i % 2] = ((const float *)at(m, op, 10 + i))[lane];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++)
                sum[row][column] += a[row][k] * b[k][column]; /* the product is exact */
    for (uint32_t lane = 0; lane < PTX_LANES; lane++)
        for (int i = 0; i < 4; i++)
            ((float *)at(m, op, i))[lane] = sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

/* --- lane by lane --- */

#ifdef __clang__
#define PTX_IVDEP
#else
#define PTX_IVDEP _Pragma("GCC ivdep")
#endif
/* All lanes: a loop that the compiler can make one instruction of; else those that execute. */
#define LANE_BY_LANE(lanes, ...)                                                                   \
    if ((lanes) == PTX_ALL) {                                                                      \
        PTX_IVDEP                                                                                  \
        for (uint32_t lane = 0; lane < PTX_LANES; lane++)                                          \
            __VA_ARGS__                                                                            \
    } else {                                                                                       \
        PTX_EACH(lanes, lane)                                                                      \
        __VA_ARGS__                                                                                \
    }

#define UNARY(text, name, result, type, expr)                                                      \
    case PTX_##name: {                                                                             \
        result *d_ = at(m, op, 0);                                                                 \
        const type *a_ = at(m, op, 1);                                                             \
        LANE_BY_LANE(lanes, {                                                                      \
            type a = a_[lane];                                                                     \
            d_[lane] = expr;                                                                       \
        })                                                                                         \
        break;                                                                                     \
    }
#define BINARY(text, name, result, type, expr)                                                     \
    case PTX_##name: {                                                                             \
        result *d_ = at(m, op, 0);                                                                 \
        const type *a_ = at(m, op, 1), *b_ = at(m, op, 2);                                         \
        LANE_BY_LANE(lanes, {                                                                      \
            type a = a_[lane], b = b_[lane];                                                       \
            d_[lane] = expr;                                                                       \
        })                                                                                         \
        break;                                                                                     \
    }
#define TERNARY(text, name, result, type, expr)                                                    \
    case PTX_##name: {                                                                             \
        result *d_ = at(m, op, 0);                                                                 \
        const type *a_ = at(m, op, 1), *b_ = at(m, op, 2), *c_ = at(m, op, 3);                     \
        LANE_BY_LANE(lanes, {                                                                      \
            type a = a_[lane], b = b_[lane], c = c_[lane];                                         \
            d_[lane] = expr;                                                                       \
        })                                                                                         \
        break;                                                                                     \
    }
/* By a number of 32 bits. */
#define SHIFT(text, name, type, expr)                                                              \
    case PTX_##name: {                                                                             \
        type *d_ = at(m, op, 0);                                                                   \
        const type *a_ = at(m, op, 1);                                                             \
        const uint32_t *b_ = at(m, op, 2);                                                         \
        LANE_BY_LANE(lanes, {                                                                      \
            type a = a_[lane];                                                                     \
            uint32_t b = b_[lane];                                                                 \
            d_[lane] = expr;                                                                       \
        })                                                                                         \
        break;                                                                                     \
    }
#define COMPARE(text, name, type, expr)                                                            \
    case PTX_##name: {                                                                             \
        const type *a_ = at(m, op, 1), *b_ = at(m, op, 2);                                         \
        uint32_t bits = 0;                                                                         \
        for (uint32_t lane = 0; lane < PTX_LANES; lane++) {                                        \
            type a = a_[lane], b = b_[lane];                                                       \
            bits |= (uint32_t)(expr) << lane;                                                      \
        }                                                                                          \
        set_lanes(at(m, op, 0), lanes, bits);                                                      \
        break;                                                                                     \
    }
#define SELECT(text, name, type)                                                                   \
    case PTX_##name: {                                                                             \
        type *d_ = at(m, op, 0);                                                                   \
        const type *a_ = at(m, op, 1), *b_ = at(m, op, 2);                                         \
        uint32_t bits = *(const uint32_t *)at(m, op, 3);                                           \
        LANE_BY_LANE(lanes, { d_[lane] = bits >> lane & 1 ? a_[lane] : b_[lane]; })                \
        break;                                                                                     \
    }
#define PREDICATE(text, name, expr)                                                                \
    case PTX_##name: {                                                                             \
        uint32_t a = *(const uint32_t *)at(m, op, 1), b = *(const uint32_t *)at(m, op, op->n - 1); \
        (void)b;                                                                                   \
        set_lanes(at(m, op, 0), lanes, expr);                                                      \
        break;                                                                                     \
    }

/* The lowest `length` bits of a, put into b from `from` on. */
static uint64_t insert(uint64_t a, uint64_t b, uint32_t from, uint32_t length, uint32_t bits)
{
    from &= 0xff;
    length = SP_MIN(length & 0xff, from < bits ? bits - from : 0);
    if (length == 0)
        return b;
    uint64_t mask = (length == 64 ? ~0ull : (1ull << length) - 1) << from;
    return (b & ~mask) | (a << from & mask);
}

static void execute_lane(struct ptx_machine *m, const struct ptx_op *op, uint32_t lane)
{
    uint64_t a = op->n > 1 ? number(m, op, 1, lane) : 0, b = op->n > 2 ? number(m, op, 2, lane) : 0;
    switch (op->code) {
    case PTX_BFI_B32:
    case PTX_BFI_B64:
        put(m, op, 0, lane,
            insert(a, b, (uint32_t)number(m, op, 3, lane), (uint32_t)number(m, op, 4, lane),
                   op->code == PTX_BFI_B32 ? 32 : 64));
        break;
    case PTX_PACK_B32:
        put(m, op, 0, lane, (a & 0xffff) | b << 16);
        break;
    case PTX_PACK_B64:
        put(m, op, 0, lane, (uint32_t)a | b << 32);
        break;
    case PTX_UNPACK_B32:
        put(m, op, 0, lane, b & 0xffff);
        put(m, op, 1, lane, b >> 16 & 0xffff);
        break;
    case PTX_UNPACK_B64:
        put(m, op, 0, lane, (uint32_t)b);
        put(m, op, 1, lane, b >> 32);
        break;
    default:
        ptx_fault(m, (int)lane, "an instruction that the machine doesn't execute");
    }
}

void ptx_execute(struct ptx_machine *m, struct ptx_op *op, uint32_t lanes)
{
    if (m->ptx->counts && op->space != PTX_PARAM)
        count(m, op, lanes);
    switch (op->code) {
        PTX_UNARY(UNARY)
        PTX_BINARY(BINARY)
        PTX_TERNARY(TERNARY)
        PTX_SHIFT(SHIFT)
        PTX_COMPARE(COMPARE)
        PTX_SELECT(SELECT)
        PTX_PREDICATE(PREDICATE)
    case PTX_LD:
        PTX_EACH(lanes, lane)
        load(m, op, lane);
        break;
    case PTX_ST:
        PTX_EACH(lanes, lane)
        store(m, op, lane);
        break;
    case PTX_CP_ASYNC:
        PTX_EACH(lanes, lane)
        fetch(m, op, lane);
        break;
    case PTX_CP_WAIT:
        PTX_EACH(lanes, lane)
        fetched(m, op, lane);
        break;
    case PTX_SHFL:
        shuffle(m, op, lanes);
        break;
    case PTX_LDMATRIX:
    case PTX_LDMATRIX_TRANS:
        load_matrix(m, op, op->code == PTX_LDMATRIX_TRANS);
        break;
    case PTX_MMA:
        multiply(m, op);
        break;
    case PTX_CP_COMMIT:
        break;
    default:
        PTX_EACH(lanes, lane)
        execute_lane(m, op, lane);
    }
    if (divided_by_zero) {
        divided_by_zero = false;
        ptx_fault(m, lanes ? __builtin_ctz(lanes) : 0, "an integer is divided by 0");
    }
}
