// The forward pass of attention.cu for bf16 on tensor cores: the same rows, the same mask, products of 16 by 8 by 16.
//
// A block has 64 query rows of one head, a warp 16 of them; 32 keys and values at a time are in shared memory, as bf16.
// Scores, their maxima and sums, and the outputs' sums are f32 in registers, in the layout that the products leave them
// in: lane 4 g + t has columns 2 t and 2 t + 1 of rows g and g + 8. Probabilities are rounded to bf16 for the product
// with the values, and their sum is of those before rounding; that, and the order of sums within a product, is what
// sets the results apart from attention.cu's.
#include "common.cuh"
#include "spans.cuh"

constexpr u32 WARPS = 4, THREADS = WARPS * WARP, KEYS = 32;
constexpr u32 PAD = 8;  // rows of shared memory are 16 bytes longer: lanes of one product meet different banks

struct Tile {
    u32 span, first, count;
};

/// d += a b for a [16, 16], b [16, 8], d [16, 8], spread over a warp as PTX has it for mma.m16n8k16: with g = lane / 4,
/// t = lane % 4, a[0] has row g, columns 2 t and 2 t + 1, a[1] row g + 8, a[2] and a[3] columns 8 further; b[0] has rows
/// 2 t and 2 t + 1 of column g, b[1] rows 8 further; d is as above. The tensor core's one instruction, or, on the host and
/// with SPIN_SCALAR, the same sum one product at a time.
__device__ inline void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(SPIN_HOST) || defined(SPIN_SCALAR)
    const u32 lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
    // Every lane gives the register of a k, which is the same for all; others take their rows and columns.
#pragma unroll 1
    for (u32 at = 0; at < 8; at++) {
        const u32 from = at % 4;
        u32 rows[2], columns[2];
        for (u32 i = 0; i < 2; i++) {
            rows[i] = __shfl_sync(ALL_LANES, at < 4 ? a[i] : a[2 + i], group * 4 + from);
            columns[i] = __shfl_sync(ALL_LANES, at < 4 ? b[0] : b[1], (2 * pair + i) * 4 + from);
        }
        for (u32 i = 0; i < 4; i++) {
            const u32 row = rows[i / 2], column = columns[i % 2];
            d[i] += __uint_as_float(row << 16) * __uint_as_float(column << 16);
            d[i] += __uint_as_float(row & 0xFFFF0000u) * __uint_as_float(column & 0xFFFF0000u);
        }
    }
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// The maximum, or sum, over the four lanes that have a row.
__device__ inline float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

__device__ inline float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ inline u32 two(u16 low, u16 high) { return u32(low) | u32(high) << 16; }

template <u32 DIM>
__device__ void attention_mma(const bf16* qkv, bf16* out, float* log_sums, const Span* spans, const Tile* tiles,
                              Layout layout, u32 dim, float scale, float softcap) {
    SHARED(u32, keys, KEYS * (DIM + PAD) / 2);       // [key, dimension]
    SHARED(u32, values, DIM * (KEYS + PAD) / 2);     // [dimension, key]: pairs of keys are side by side
    u16* const key_numbers = reinterpret_cast<u16*>(&keys[0]);
    u16* const value_numbers = reinterpret_cast<u16*>(&values[0]);
    const u32 lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
    const Tile tile = tiles[blockIdx.x];
    const Span span = spans[tile.span];
    const u32 head = blockIdx.y, kv_head = head / (layout.heads / layout.kv_heads);
    const u32 own = threadIdx.x / WARP * 16 + group;  // of the tile; the lane's other row is 8 further
    const u32 position = span.shared_len + tile.first;

    // The warp's queries, for all dimensions.
    u32 queries[DIM / 16][4];
#pragma unroll
    for (u32 part = 0; part < DIM / 16; part++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 q = own + i % 2 * 8, c = part * 16 + i / 2 * 8 + pair * 2;
            const bf16* row = qkv + layout.query(span.own + tile.first + q, head, dim);
            const u16 low = q < tile.count && c < dim ? row[c].bits : 0;
            const u16 high = q < tile.count && c + 1 < dim ? row[c + 1].bits : 0;
            queries[part][i] = two(low, high);
        }
    float sums[DIM / 8][4], best[2] = {minus_infinity(), minus_infinity()}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 part = 0; part < DIM / 8; part++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) sums[part][i] = 0.0f;

    const u32 last = position + tile.count;
    for (u32 first = layout.first_key(position); first < last; first += KEYS) {
        __syncthreads();
        for (u32 at = threadIdx.x; at < KEYS * DIM; at += THREADS) {
            const u32 k = at / DIM, c = at % DIM, row = row_of(span, first + k);
            const bool real = first + k < last && c < dim;
            key_numbers[k * (DIM + PAD) + c] = real ? qkv[layout.key(row, kv_head, dim) + c].bits : u16(0);
            value_numbers[c * (KEYS + PAD) + k] = real ? qkv[layout.value(row, kv_head, dim) + c].bits : u16(0);
        }
        __syncthreads();

        float scores[KEYS / 8][4];
#pragma unroll
        for (u32 j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) scores[j][i] = 0.0f;
#pragma unroll
            for (u32 part = 0; part < DIM / 16; part++) {
                const u32* const at = keys + ((j * 8 + group) * (DIM + PAD) + part * 16) / 2 + pair;
                const u32 of_keys[2] = {at[0], at[4]};
                multiply(scores[j], queries[part], of_keys);
            }
        }
        float larger[2] = {best[0], best[1]};
#pragma unroll
        for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 k = first + j * 8 + pair * 2 + i % 2, q = own + i / 2 * 8;
                const bool sees = q < tile.count && k < last && layout.sees(position + q, k);
                scores[j][i] = sees ? soft_cap(scores[j][i] * scale, softcap) : minus_infinity();
                larger[i / 2] = fmaxf(larger[i / 2], scores[j][i]);
            }
        float kept[2], added[2] = {0.0f, 0.0f};
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            larger[half] = quad_max(larger[half]);
            // Where a row has seen nothing yet, all of it is minus infinity, and a difference would be NaN.
            kept[half] = best[half] == minus_infinity() ? 0.0f : expf(best[half] - larger[half]);
            best[half] = larger[half];
        }
        u32 weights[KEYS / 8][2];
#pragma unroll
        for (u32 j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                scores[j][i] = scores[j][i] == minus_infinity() ? 0.0f : expf(scores[j][i] - best[i / 2]);
                added[i / 2] += scores[j][i];
            }
            weights[j][0] = two_bf16(scores[j][0], scores[j][1]);
            weights[j][1] = two_bf16(scores[j][2], scores[j][3]);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) total[half] = total[half] * kept[half] + quad_sum(added[half]);
#pragma unroll
        for (u32 part = 0; part < DIM / 8; part++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[part][i] *= kept[i / 2];
#pragma unroll
            for (u32 j = 0; j < KEYS / 16; j++) {
                const u32 of_weights[4] = {weights[2 * j][0], weights[2 * j][1], weights[2 * j + 1][0],
                                           weights[2 * j + 1][1]};
                const u32* const at = values + ((part * 8 + group) * (KEYS + PAD) + j * 16) / 2 + pair;
                const u32 of_values[2] = {at[0], at[4]};
                multiply(sums[part], of_weights, of_values);
            }
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 q = own + half * 8;
        if (q >= tile.count) continue;
        const u64 row = u64(span.own + tile.first + q) * layout.heads + head;
        const float inverse = 1.0f / total[half];
#pragma unroll
        for (u32 part = 0; part < DIM / 8; part++)
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                const u32 c = part * 8 + pair * 2 + i;
                if (c < dim) out[row * dim + c] = from_f32<bf16>(sums[part][half * 2 + i] * inverse);
            }
        if (pair == 0) log_sums[row] = best[half] + logf(total[half]);
    }
}

#define MMA(DIM)                                                                                                   \
    KERNEL_OF(128, 2)                                                                                              \
    void attention_mma_##DIM(const bf16* qkv, bf16* out, float* log_sums, const Span* spans, const Tile* tiles,    \
                             u32 heads, u32 kv_heads, u32 dim, u32 window, float scale, float softcap) {           \
        attention_mma<DIM>(qkv, out, log_sums, spans, tiles, Layout{heads, kv_heads, window}, dim, scale, softcap); \
    }                                                                                                              \
    HOST_KERNEL(attention_mma_##DIM)

MMA(32)
MMA(64)
MMA(128)
