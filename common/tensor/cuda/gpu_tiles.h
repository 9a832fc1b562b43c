/* gpu_tiles: the tiles of gpu.h on a device, by ldmatrix and mma.sync of m16n8k16 (PTX ISA, "Matrix
 * multiply-accumulate operation using mma instruction"), which every device from sm_80 on has. The
 * tiles of nvcuda::wmma would be loaded by generic loads, four for one, and do not say which thread
 * has which element.
 *
 * A factor is four words of two elements each. In each of its four 8 × 8 parts the thread of lane l
 * has elements 2 (l % 4) and the next of line l / 4, where lines are rows of a left factor and
 * columns of a right one. Parts of a left factor are (rows, k): (0, 0), (8, 0), (0, 8), (8, 8);
 * of a right one (k, columns): (0, 0), (8, 0), (0, 8), (8, 8), the first two of which are the
 * factor of the first eight columns of the sum. ldmatrix takes the address of line l % 8 of part l
 * / 8 from lane l, as it lies in memory, and with .trans turns each part. */
#ifndef SPIN_TENSOR_CUDA_GPU_TILES_H
#define SPIN_TENSOR_CUDA_GPU_TILES_H

struct gpu_left {
    unsigned x[4];
};
struct gpu_left_across {
    unsigned x[4];
};
struct gpu_right {
    unsigned x[4];
};
struct gpu_right_across {
    unsigned x[4];
};
struct gpu_sum {
    enum { num_elements = 8 };
    float x[num_elements];
};

GPU_FN unsigned gpu_shared_address(const void *at)
{
    return (unsigned)__cvta_generic_to_shared(at);
}

GPU_FN void gpu_load_parts(unsigned x[4], const void *line)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(gpu_shared_address(line))
                 : "memory");
}

GPU_FN void gpu_load_parts_turned(unsigned x[4], const void *line)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(gpu_shared_address(line))
                 : "memory");
}

/* Lines of the parts that lie at (0, 0), (8, 0), (0, 8), (8, 8) in memory, or the middle two the
 * other way round. */
GPU_FN const unsigned short *gpu_line_down(const void *from, unsigned ld)
{
    return (const unsigned short *)from + (GPU_LANE % 16 * ld + GPU_LANE / 16 * 8);
}
GPU_FN const unsigned short *gpu_line_right(const void *from, unsigned ld)
{
    return (const unsigned short *)from +
           ((GPU_LANE % 8 + GPU_LANE / 16 * 8) * ld + GPU_LANE / 8 % 2 * 8);
}

GPU_FN void gpu_load_factor(struct gpu_left *tile, const void *from, unsigned ld)
{
    gpu_load_parts(tile->x, gpu_line_down(from, ld));
}
GPU_FN void gpu_load_factor(struct gpu_left_across *tile, const void *from, unsigned ld)
{
    gpu_load_parts_turned(tile->x, gpu_line_right(from, ld));
}
GPU_FN void gpu_load_factor(struct gpu_right *tile, const void *from, unsigned ld)
{
    gpu_load_parts_turned(tile->x, gpu_line_down(from, ld));
}
GPU_FN void gpu_load_factor(struct gpu_right_across *tile, const void *from, unsigned ld)
{
    gpu_load_parts(tile->x, gpu_line_right(from, ld));
}

/* Eight columns of the sum. */
GPU_FN void gpu_multiply_half(float sum[4], const unsigned left[4], const unsigned right[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]),
                   "r"(right[1]));
}

GPU_FN void gpu_multiply_tiles(struct gpu_sum *sum, const unsigned left[4], const unsigned right[4])
{
    gpu_multiply_half(sum->x, left, right);
    gpu_multiply_half(sum->x + 4, left, right + 2);
}

/* Element i of a thread: two of a row, two of the row eight below, and so of the columns behind. */
#define gpu_tile_row(i) ((int)GPU_LANE / 4 + (i) / 2 % 2 * 8)
#define gpu_tile_column(i) ((int)GPU_LANE % 4 * 2 + (i) / 4 * 8 + (i) % 2)
#define gpu_tile_at(sum, i) ((sum)->x[i])

GPU_FN void gpu_zero_sum(struct gpu_sum *sum)
{
    GPU_UNROLL
    for (int i = 0; i < 8; i++)
        sum->x[i] = 0.0f;
}

GPU_FN void gpu_load_sum(struct gpu_sum *sum, const float *from, unsigned ld)
{
    GPU_UNROLL
    for (int i = 0; i < 8; i += 2) {
        const float2 two = *(const float2 *)(from + gpu_tile_row(i) * ld + gpu_tile_column(i));
        sum->x[i] = two.x;
        sum->x[i + 1] = two.y;
    }
}

GPU_FN void gpu_store_sum(float *to, const struct gpu_sum *sum, unsigned ld)
{
    GPU_UNROLL
    for (int i = 0; i < 8; i += 2)
        *(float2 *)(to + gpu_tile_row(i) * ld + gpu_tile_column(i)) =
            make_float2(sum->x[i], sum->x[i + 1]);
}

#define gpu_tile_load(tile, from, ld) gpu_load_factor((tile), (from), (unsigned)(ld))
#define gpu_tile_zero(sum) gpu_zero_sum(sum)
/* sum += left·right */
#define gpu_tile_multiply(sum, left, right) gpu_multiply_tiles((sum), (left)->x, (right)->x)
#define gpu_tile_load_sum(sum, from, ld) gpu_load_sum((sum), (const float *)(from), (unsigned)(ld))
#define gpu_tile_store_sum(to, sum, ld) gpu_store_sum((float *)(to), (sum), (unsigned)(ld))

#endif
