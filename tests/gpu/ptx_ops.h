/* ptx_ops: the instructions, each with its name in PTX, its name here, and what it does with the
 * operands a, b, c of one lane, as a C expression. */
#ifndef SPIN_TESTS_GPU_PTX_OPS_H
#define SPIN_TESTS_GPU_PTX_OPS_H

/* text, name, type of the result, type of a */
#define PTX_UNARY(X)                                                                               \
    X("mov.u16", MOV_U16, uint32_t, uint32_t, a)                                                   \
    X("mov.b16", MOV_B16, uint32_t, uint32_t, a)                                                   \
    X("mov.u32", MOV_U32, uint32_t, uint32_t, a)                                                   \
    X("mov.b32", MOV_B32, uint32_t, uint32_t, a)                                                   \
    X("mov.b64", MOV_B64, uint64_t, uint64_t, a)                                                   \
    X("mov.s32", MOV_S32, uint32_t, uint32_t, a)                                                   \
    X("mov.f32", MOV_F32, uint32_t, uint32_t, a)                                                   \
    X("mov.u64", MOV_U64, uint64_t, uint64_t, a)                                                   \
    X("mov.s64", MOV_S64, uint64_t, uint64_t, a)                                                   \
    X("mov.f64", MOV_F64, uint64_t, uint64_t, a)                                                   \
    X("neg.f32", NEG_F32, float, float, -a)                                                        \
    X("neg.f64", NEG_F64, double, double, -a)                                                      \
    X("neg.s32", NEG_S32, uint32_t, uint32_t, 0u - a)                                              \
    X("neg.s64", NEG_S64, uint64_t, uint64_t, 0u - a)                                              \
    X("abs.f32", ABS_F32, float, float, fabsf(a))                                                  \
    X("abs.f64", ABS_F64, double, double, fabs(a))                                                 \
    X("abs.s32", ABS_S32, uint32_t, int32_t, a < 0 ? 0u - (uint32_t)a : (uint32_t)a)               \
    X("not.b16", NOT_B16, uint32_t, uint32_t, ~a & 0xffffu)                                        \
    X("not.b32", NOT_B32, uint32_t, uint32_t, ~a)                                                  \
    X("not.b64", NOT_B64, uint64_t, uint64_t, ~a)                                                  \
    X("sqrt.rn.f32", SQRT_F32, float, float, sqrtf(a))                                             \
    X("sqrt.rn.f64", SQRT_F64, double, double, sqrt(a))                                            \
    X("rcp.rn.f32", RCP_F32, float, float, 1.0f / a)                                               \
    X("rcp.rn.f64", RCP_F64, double, double, 1.0 / a)                                              \
    X("ex2.approx.f32", EX2, float, float, exp2f(a))                                               \
    X("ex2.approx.ftz.f32", EX2_FTZ, float, float, ptx_flush(exp2f(a)))                            \
    X("cvt.s64.s32", CVT_S64_S32, int64_t, int32_t, a)                                             \
    X("cvt.u64.u32", CVT_U64_U32, uint64_t, uint32_t, a)                                           \
    X("cvt.u32.u64", CVT_U32_U64, uint32_t, uint64_t, (uint32_t)a)                                 \
    X("cvt.u32.u16", CVT_U32_U16, uint32_t, uint32_t, a & 0xffffu)                                 \
    X("cvt.u16.u32", CVT_U16_U32, uint32_t, uint32_t, a & 0xffffu)                                 \
    X("cvt.f64.f32", CVT_F64_F32, double, float, (double)a)                                        \
    X("cvt.rn.f32.f64", CVT_F32_F64, float, double, (float)a)                                      \
    X("cvt.rn.f32.s32", CVT_F32_S32, float, int32_t, (float)a)                                     \
    X("cvt.rn.f32.u32", CVT_F32_U32, float, uint32_t, (float)a)                                    \
    X("cvt.rn.f32.u64", CVT_F32_U64, float, uint64_t, (float)a)                                    \
    X("cvt.rn.f64.s32", CVT_F64_S32, double, int32_t, (double)a)                                   \
    X("cvt.rn.f64.u32", CVT_F64_U32, double, uint32_t, (double)a)                                  \
    X("cvt.rn.f64.s64", CVT_F64_S64, double, int64_t, (double)a)                                   \
    X("cvt.rn.f64.u64", CVT_F64_U64, double, uint64_t, (double)a)                                  \
    X("cvt.rn.bf16.f32", CVT_BF16_F32, uint32_t, float, sp_f32_to_bf16(a))                         \
    X("cvta.to.global.u64", CVTA_TO_GLOBAL, uint64_t, uint64_t, a)                                 \
    X("cvta.local.u64", CVTA_LOCAL, uint64_t, uint64_t, a)                                         \
    X("cvta.shared.u64", CVTA_SHARED, uint64_t, uint64_t, a)                                       \
    X("cvta.to.shared.u64", CVTA_TO_SHARED, uint64_t, uint64_t, a)

/* …, type of the result, type of a and b */
#define PTX_BINARY(X)                                                                              \
    X("add.s32", ADD_S32, uint32_t, uint32_t, a + b)                                               \
    X("add.u32", ADD_U32, uint32_t, uint32_t, a + b)                                               \
    X("add.s64", ADD_S64, uint64_t, uint64_t, a + b)                                               \
    X("add.u64", ADD_U64, uint64_t, uint64_t, a + b)                                               \
    X("sub.s32", SUB_S32, uint32_t, uint32_t, a - b)                                               \
    X("sub.u32", SUB_U32, uint32_t, uint32_t, a - b)                                               \
    X("sub.s64", SUB_S64, uint64_t, uint64_t, a - b)                                               \
    X("sub.u64", SUB_U64, uint64_t, uint64_t, a - b)                                               \
    X("mul.lo.s32", MUL_S32, uint32_t, uint32_t, a *b)                                             \
    X("mul.lo.u32", MUL_U32, uint32_t, uint32_t, a *b)                                             \
    X("mul.lo.s64", MUL_S64, uint64_t, uint64_t, a *b)                                             \
    X("mul.lo.u64", MUL_U64, uint64_t, uint64_t, a *b)                                             \
    X("mul.wide.s32", MUL_WIDE_S32, int64_t, int32_t, (int64_t)a *b)                               \
    X("mul.wide.u32", MUL_WIDE_U32, uint64_t, uint32_t, (uint64_t)a *b)                            \
    X("mul.hi.u32", MUL_HI_U32, uint32_t, uint32_t, (uint32_t)((uint64_t)a * b >> 32))             \
    X("mul.hi.s32", MUL_HI_S32, int32_t, int32_t, (int32_t)((int64_t)a * b >> 32))                 \
    X("and.b16", AND_B16, uint32_t, uint32_t, a &b)                                                \
    X("or.b16", OR_B16, uint32_t, uint32_t, a | b)                                                 \
    X("xor.b16", XOR_B16, uint32_t, uint32_t, a ^ b)                                               \
    X("and.b32", AND_B32, uint32_t, uint32_t, a &b)                                                \
    X("or.b32", OR_B32, uint32_t, uint32_t, a | b)                                                 \
    X("xor.b32", XOR_B32, uint32_t, uint32_t, a ^ b)                                               \
    X("and.b64", AND_B64, uint64_t, uint64_t, a &b)                                                \
    X("or.b64", OR_B64, uint64_t, uint64_t, a | b)                                                 \
    X("xor.b64", XOR_B64, uint64_t, uint64_t, a ^ b)                                               \
    X("shl.b32", SHL_B32, uint32_t, uint32_t, b > 31 ? 0 : a << (b & 31))                          \
    X("shr.u32", SHR_U32, uint32_t, uint32_t, b > 31 ? 0 : a >> (b & 31))                          \
    X("shr.s32", SHR_S32, int32_t, int32_t, a >> ((uint32_t)b > 31 ? 31 : b))                      \
    X("min.s32", MIN_S32, int32_t, int32_t, a < b ? a : b)                                         \
    X("max.s32", MAX_S32, int32_t, int32_t, a > b ? a : b)                                         \
    X("min.u32", MIN_U32, uint32_t, uint32_t, a < b ? a : b)                                       \
    X("max.u32", MAX_U32, uint32_t, uint32_t, a > b ? a : b)                                       \
    X("min.s64", MIN_S64, int64_t, int64_t, a < b ? a : b)                                         \
    X("max.s64", MAX_S64, int64_t, int64_t, a > b ? a : b)                                         \
    X("min.u64", MIN_U64, uint64_t, uint64_t, a < b ? a : b)                                       \
    X("max.u64", MAX_U64, uint64_t, uint64_t, a > b ? a : b)                                       \
    X("div.s32", DIV_S32, int32_t, int32_t, (int32_t)(b ? (int64_t)a / b : ptx_zero()))            \
    X("div.u32", DIV_U32, uint32_t, uint32_t, b ? a / b : (uint32_t)ptx_zero())                    \
    X("rem.s32", REM_S32, int32_t, int32_t, (int32_t)(b ? (int64_t)a % b : ptx_zero()))            \
    X("rem.u32", REM_U32, uint32_t, uint32_t, b ? a % b : (uint32_t)ptx_zero())                    \
    X("div.u64", DIV_U64, uint64_t, uint64_t, b ? a / b : (uint64_t)ptx_zero())                    \
    X("rem.u64", REM_U64, uint64_t, uint64_t, b ? a % b : (uint64_t)ptx_zero())                    \
    X("div.s64", DIV_S64, int64_t, int64_t, b == 0 ? ptx_zero() : b == -1 ? 0 - a : a / b)         \
    X("rem.s64", REM_S64, int64_t, int64_t, b == 0 ? ptx_zero() : b == -1 ? 0 : a % b)             \
    X("add.rn.f32", ADD_F32, float, float, a + b)                                                  \
    X("sub.rn.f32", SUB_F32, float, float, a - b)                                                  \
    X("mul.rn.f32", MUL_F32, float, float, a *b)                                                   \
    X("div.rn.f32", DIV_F32, float, float, a / b)                                                  \
    X("div.approx.f32", DIV_APPROX_F32, float, float, a / b)                                       \
    X("div.full.f32", DIV_FULL_F32, float, float, a / b)                                           \
    X("max.f32", MAX_F32, float, float, ptx_larger(a, b))                                          \
    X("min.f32", MIN_F32, float, float, -ptx_larger(-a, -b))                                       \
    X("copysign.f32", COPYSIGN_F32, float, float, copysignf(b, a))                                 \
    X("add.rn.f64", ADD_F64, double, double, a + b)                                                \
    X("sub.rn.f64", SUB_F64, double, double, a - b)                                                \
    X("mul.rn.f64", MUL_F64, double, double, a *b)                                                 \
    X("div.rn.f64", DIV_F64, double, double, a / b)                                                \
    X("cvt.rn.bf16x2.f32", CVT_BF16X2, uint32_t, float,                                            \
      (uint32_t)sp_f32_to_bf16(a) << 16 | sp_f32_to_bf16(b))

/* …, of a, b, c */
#define PTX_TERNARY(X)                                                                             \
    X("fma.rn.f32", FMA_F32, float, float, fmaf(a, b, c))                                          \
    X("fma.rn.f64", FMA_F64, double, double, fma(a, b, c))                                         \
    X("mad.lo.s32", MAD_S32, uint32_t, uint32_t, a *b + c)                                         \
    X("mad.lo.u32", MAD_U32, uint32_t, uint32_t, a *b + c)                                         \
    X("mad.lo.s64", MAD_S64, uint64_t, uint64_t, a *b + c)                                         \
    X("prmt.b32", PRMT, uint32_t, uint32_t, ptx_prmt(a, b, c))                                     \
    X("shf.l.wrap.b32", SHF_L, uint32_t, uint32_t,                                                 \
      (uint32_t)(((uint64_t)b << 32 | a) << (c & 31) >> 32))                                       \
    X("shf.r.wrap.b32", SHF_R, uint32_t, uint32_t, (uint32_t)(((uint64_t)b << 32 | a) >> (c & 31)))

/* …, type of the result and of a; b is a number of 32 bits */
#define PTX_SHIFT(X)                                                                               \
    X("shl.b64", SHL_B64, uint64_t, b > 63 ? 0 : a << (b & 63))                                    \
    X("shr.u64", SHR_U64, uint64_t, b > 63 ? 0 : a >> (b & 63))                                    \
    X("shr.s64", SHR_S64, int64_t, a >> (b > 63 ? 63 : b))

#define PTX_COMPARE_ORDER(X, text, name, type)                                                     \
    X("setp.eq." text, EQ_##name, type, a == b)                                                    \
    X("setp.lt." text, LT_##name, type, a < b)                                                     \
    X("setp.le." text, LE_##name, type, a <= b)                                                    \
    X("setp.gt." text, GT_##name, type, a > b)                                                     \
    X("setp.ge." text, GE_##name, type, a >= b)
#define PTX_COMPARE_INTEGERS(X, text, name, type)                                                  \
    PTX_COMPARE_ORDER(X, text, name, type)                                                         \
    X("setp.ne." text, NE_##name, type, a != b)
/* With NaN these are false, and those that end in u true. */
#define PTX_COMPARE_FLOATS(X, text, name, type)                                                    \
    PTX_COMPARE_ORDER(X, text, name, type)                                                         \
    X("setp.ne." text, NE_##name, type, a<b || a> b)                                               \
    X("setp.equ." text, EQU_##name, type, !(a < b || a > b))                                       \
    X("setp.neu." text, NEU_##name, type, !(a == b))                                               \
    X("setp.ltu." text, LTU_##name, type, !(a >= b))                                               \
    X("setp.leu." text, LEU_##name, type, !(a > b))                                                \
    X("setp.gtu." text, GTU_##name, type, !(a <= b))                                               \
    X("setp.geu." text, GEU_##name, type, !(a < b))                                                \
    X("setp.num." text, NUM_##name, type, a == a && b == b)                                        \
    X("setp.nan." text, NAN_##name, type, !(a == a && b == b))
#define PTX_COMPARE(X)                                                                             \
    X("setp.eq.s16", EQ_S16, uint32_t, a == b)                                                     \
    X("setp.ne.s16", NE_S16, uint32_t, a != b)                                                     \
    X("setp.eq.b32", EQ_B32, uint32_t, a == b)                                                     \
    X("setp.ne.b32", NE_B32, uint32_t, a != b)                                                     \
    PTX_COMPARE_INTEGERS(X, "s32", S32, int32_t)                                                   \
    PTX_COMPARE_INTEGERS(X, "u32", U32, uint32_t)                                                  \
    PTX_COMPARE_INTEGERS(X, "s64", S64, int64_t)                                                   \
    PTX_COMPARE_INTEGERS(X, "u64", U64, uint64_t)                                                  \
    PTX_COMPARE_FLOATS(X, "f32", F32, float)                                                       \
    PTX_COMPARE_FLOATS(X, "f64", F64, double)

/* text, name, type: a or b by a predicate */
#define PTX_SELECT(X)                                                                              \
    X("selp.b16", SELP_B16, uint32_t)                                                              \
    X("selp.b32", SELP_B32, uint32_t)                                                              \
    X("selp.u32", SELP_U32, uint32_t)                                                              \
    X("selp.s32", SELP_S32, uint32_t)                                                              \
    X("selp.f32", SELP_F32, uint32_t)                                                              \
    X("selp.b64", SELP_B64, uint64_t)                                                              \
    X("selp.u64", SELP_U64, uint64_t)                                                              \
    X("selp.s64", SELP_S64, uint64_t)                                                              \
    X("selp.f64", SELP_F64, uint64_t)

/* Of predicates; not.pred has one. */
#define PTX_PREDICATE(X)                                                                           \
    X("and.pred", AND_PRED, a &b)                                                                  \
    X("or.pred", OR_PRED, a | b)                                                                   \
    X("xor.pred", XOR_PRED, a ^ b)                                                                 \
    X("not.pred", NOT_PRED, ~a)                                                                    \
    X("mov.pred", MOV_PRED, a)

/* What is more than an expression: text, name, widths of the operands (4 or 8 bytes, p: predicate,
 * r: as the register). Loads and stores, and moves of parts, are found by their form. */
#define PTX_OTHER(X)                                                                               \
    X("bfi.b32", BFI_B32, "44444")                                                                 \
    X("bfi.b64", BFI_B64, "88844")                                                                 \
    X("ret", RET, "")                                                                              \
    X("bar.sync", BAR, "4")                                                                        \
    X("bar.warp.sync", BAR_WARP, "4")                                                              \
    X("shfl.sync.bfly.b32", SHFL, "4p4444")                                                        \
    X("ldmatrix.sync.aligned.m8n8.x4.shared.b16", LDMATRIX, "4444r")                               \
    X("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", LDMATRIX_TRANS, "4444r")                   \
    X("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", MMA, "44444444444444")                \
    X("cp.async.cg.shared.global", CP_ASYNC, "rr44")                                               \
    X("cp.async.commit_group", CP_COMMIT, "")                                                      \
    X("cp.async.wait_group", CP_WAIT, "4")

/* All of these. */
#define PTX_NAMED(X)                                                                               \
    PTX_UNARY(X)                                                                                   \
    PTX_BINARY(X)                                                                                  \
    PTX_TERNARY(X)                                                                                 \
    PTX_SHIFT(X)                                                                                   \
    PTX_COMPARE(X)                                                                                 \
    PTX_SELECT(X)                                                                                  \
    PTX_PREDICATE(X)                                                                               \
    PTX_OTHER(X)

#endif
