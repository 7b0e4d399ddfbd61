// The forward pass of attention that training, generation and scoring share: a tile of query vectors against a list of
// keys, 32 at a time, with a running maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022). Nothing of the
// size [queries, keys] exists.
//
// Who the queries and keys are is said by a view:
//   u32 count()                    query vectors, at most WARPS * ROWS<DIM>
//   u32 first(), u32 last()        keys that any query may see
//   const T* query(u32 q)          dim numbers; likewise key(u32 k) and value(u32 k)
//   bool sees(u32 q, u32 k)
//   void put(u32 q, u32 lane, float best, float total, const float (&mixed)[DIM / 32])
//                                  the largest score, the sum of e^(score - best), and the sum of e^(score - best) times
//                                  the values, of which the lane has dimensions lane, lane + 32, ...
//
// A warp has ROWS<DIM> queries. For scores a lane has a key; rows of keys in shared memory are DIM + 1 numbers apart, so
// that 32 lanes reading one dimension of 32 keys meet 32 banks. For outputs a lane has dimensions.
#pragma once
#include "common.cuh"

constexpr u32 WARPS = 4;
constexpr u32 THREADS = WARPS * WARP;

/// Query vectors of a warp: as many as keep the sums of a wide head in registers.
template <u32 DIM>
constexpr u32 ROWS = DIM <= 128 ? 4 : 2;

/// What all heads of a layer share. `dim` is at most the DIM of the kernel; dimensions beyond are zeros.
struct Head {
    u32 dim;
    float scale;
    float softcap;
};

/// Bytes of shared memory: the launches (src/attention.rs) know the same sizes.
/// queries WARPS * ROWS * DIM, keys and values 32 * (DIM + 1) each, weights WARPS * ROWS * 32, all f32.

/// Copies 32 rows of `dim` numbers into shared memory, DIM + 1 apart: row(k) of first <= k < last, zeros elsewhere.
/// Neighbouring threads read neighbouring numbers and write to neighbouring banks; 16 bytes to a thread would save
/// reads, and put the writes of several threads into one bank.
template <u32 DIM, typename Row>
__device__ void load_rows(float* to, u32 first, u32 last, u32 dim, Row row) {
    for (u32 at = threadIdx.x; at < WARP * DIM; at += THREADS) {
        const u32 k = at / DIM, c = at % DIM;
        to[k * (DIM + 1) + c] = first + k < last && c < dim ? to_f32(row(first + k)[c]) : 0.0f;
    }
}

/// sums[r] += vectors[r] . row for R vectors DIM apart, which all lanes read at once (16 bytes at a time), and a row of
/// the lane's own.
template <u32 DIM, u32 R>
__device__ void add_dots(const float* vectors, const float* row, float (&sums)[R]) {
#pragma unroll 4
    for (u32 c = 0; c < DIM; c += 4) {
        const float own[4] = {row[c], row[c + 1], row[c + 2], row[c + 3]};
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const float4 four = *reinterpret_cast<const float4*>(vectors + r * DIM + c);
            sums[r] += four.x * own[0] + four.y * own[1] + four.z * own[2] + four.w * own[3];
        }
    }
}

/// sums[r] += weights[r, k] rows[k] over 32 rows DIM + 1 apart, of which the lane has dimensions lane, lane + 32, ...
template <u32 DIM, u32 R>
__device__ void add_rows(const float* weights, const float* rows, float (&sums)[R][DIM / WARP]) {
    constexpr u32 PARTS = DIM / WARP;
    const u32 lane = threadIdx.x % WARP;
#pragma unroll 4
    for (u32 k = 0; k < WARP; k++) {
        float row[PARTS];
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) row[i] = rows[k * (DIM + 1) + i * WARP + lane];
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const float weight = weights[r * WARP + k];
#pragma unroll
            for (u32 i = 0; i < PARTS; i++) sums[r][i] += weight * row[i];
        }
    }
}

template <u32 DIM, typename View>
__device__ void attend(const View& view, const Head& head) {
    constexpr u32 R = ROWS<DIM>, PARTS = DIM / WARP;
    DYNAMIC_SHARED(memory);
    float* const queries = memory;
    float* const keys = queries + WARPS * R * DIM;
    float* const values = keys + WARP * (DIM + 1);
    float* const weights = values + WARP * (DIM + 1);
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 count = view.count();

    for (u32 at = threadIdx.x; at < WARPS * R * DIM; at += THREADS) {
        const u32 q = at / DIM, c = at % DIM;
        queries[at] = q < count && c < head.dim ? to_f32(view.query(q)[c]) * head.scale : 0.0f;
    }
    float best[R], total[R], mixed[R][PARTS];
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        best[r] = minus_infinity();
        total[r] = 0.0f;
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) mixed[r][i] = 0.0f;
    }
    const u32 last = view.last();
    for (u32 first = view.first(); first < last; first += WARP) {
        __syncthreads();  // The tile before is still being read.
        load_rows<DIM>(keys, first, last, head.dim, [&](u32 k) { return view.key(k); });
        load_rows<DIM>(values, first, last, head.dim, [&](u32 k) { return view.value(k); });
        __syncthreads();

        float scores[R];
#pragma unroll
        for (u32 r = 0; r < R; r++) scores[r] = 0.0f;
        add_dots<DIM>(queries + warp * R * DIM, keys + lane * (DIM + 1), scores);
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const u32 q = warp * R + r;
            const bool sees = q < count && first + lane < last && view.sees(q, first + lane);
            const float score = sees ? soft_cap(scores[r], head.softcap) : minus_infinity();
            const float larger = fmaxf(best[r], warp_max(score));
            // Where a query has seen nothing yet, all of it is minus infinity, and a difference would be NaN.
            const float kept = best[r] == minus_infinity() ? 0.0f : expf(best[r] - larger);
            const float weight = sees ? expf(score - larger) : 0.0f;
            best[r] = larger;
            total[r] = total[r] * kept + warp_sum(weight);
#pragma unroll
            for (u32 i = 0; i < PARTS; i++) mixed[r][i] *= kept;
            weights[q * WARP + lane] = weight;
        }
        __syncwarp();
        add_rows<DIM>(weights + warp * R * WARP, values, mixed);
    }
#pragma unroll
    for (u32 r = 0; r < R; r++)
        if (warp * R + r < count) view.put(warp * R + r, lane, best[r], total[r], mixed[r]);
}

/// Writes a finished output row: mixed / total.
template <u32 DIM, typename T>
__device__ void put_output(T* out, u32 lane, u32 dim, float total, const float (&mixed)[DIM / WARP]) {
    const float inverse = 1.0f / total;
#pragma unroll
    for (u32 i = 0; i < DIM / WARP; i++) {
        const u32 c = i * WARP + lane;
        if (c < dim) out[c] = from_f32<T>(mixed[i] * inverse);
    }
}

/// For every width of heads that has a kernel, and both types.
#define EACH_WIDTH(MACRO) \
    MACRO(float, 32)      \
    MACRO(float, 64)      \
    MACRO(float, 128)     \
    MACRO(float, 256)     \
    MACRO(bf16, 32)       \
    MACRO(bf16, 64)       \
    MACRO(bf16, 128)      \
    MACRO(bf16, 256)
