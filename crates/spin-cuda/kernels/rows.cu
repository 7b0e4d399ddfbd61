// Rows by number: embedding, gathering, and the gradients of both, which add rows to rows.
//
// Several rows may be added to the same one (a token that stands often; a prompt's last row, which predicts the first
// token of every response). Float atomics would add in the order of chance; here the rows of one target lie in a
// segment of a list, sorted once on the host for a batch, and one block adds them in that order.
#include "common.cuh"

/// to[r] = scale * from[ids[r]], rows of `width`.
template <typename S, typename T>
__device__ void gather(const S* from, const u32* ids, T* to, u32 rows, u32 width, float scale) {
    constexpr u32 N = 4;
    const bool aligned = width % N == 0 && is_aligned<N>(from) && is_aligned<N>(to);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        const S* source = from + u64(ids[row]) * width;
        T* target = to + u64(row) * width;
        each<N>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
            float v[n.N_];
            load(source + at, v);
            for (u32 i = 0; i < n; i++) v[i] *= scale;
            store(target + at, v);
        });
    }
}

/// to[targets[s]] += scale * sum of from[order[i]] for starts[s] <= i < starts[s + 1], in this order.
/// Where not `add`, the sum replaces what was there (and rows that are no target are left alone).
template <typename S, typename T>
__device__ void add_segments(const S* from, const u32* order, const u32* starts, const u32* targets, T* to,
                             u32 segments, u32 width, float scale, u32 add) {
    constexpr u32 N = 4;
    const bool aligned = width % N == 0 && is_aligned<N>(from) && is_aligned<N>(to);
    for (u32 segment = blockIdx.x; segment < segments; segment += gridDim.x) {
        T* target = to + u64(targets[segment]) * width;
        const u32 first = starts[segment], last = starts[segment + 1];
        each<N>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
            float sums[n.N_], v[n.N_];
            for (u32 i = 0; i < n; i++) sums[i] = 0.0f;
            for (u32 item = first; item < last; item++) {
                load(from + u64(order[item]) * width + at, v);
                for (u32 i = 0; i < n; i++) sums[i] += v[i];
            }
            if (add) load(target + at, v);
            for (u32 i = 0; i < n; i++) sums[i] = add ? v[i] + scale * sums[i] : scale * sums[i];
            store(target + at, sums);
        });
    }
}

#define ROWS(S, T)                                                                                                  \
    KERNEL(256) void gather_##S##_##T(const S* from, const u32* ids, T* to, u32 rows, u32 width, float scale) {     \
        gather(from, ids, to, rows, width, scale);                                                                  \
    }                                                                                                               \
    HOST_KERNEL(gather_##S##_##T)                                                                                   \
    KERNEL(256)                                                                                                     \
    void add_segments_##S##_##T(const S* from, const u32* order, const u32* starts, const u32* targets, T* to,      \
                                u32 segments, u32 width, float scale, u32 add) {                                    \
        add_segments(from, order, starts, targets, to, segments, width, scale, add);                                \
    }                                                                                                               \
    HOST_KERNEL(add_segments_##S##_##T)

ROWS(float, float)
ROWS(float, bf16)
ROWS(bf16, float)
ROWS(bf16, bf16)
