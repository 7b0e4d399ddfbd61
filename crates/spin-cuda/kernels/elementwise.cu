// Scale, add, bias, convert: one number at a time, 16 bytes or 8 to a read.
#include "common.cuh"

/// values *= factor.
template <typename T>
__device__ void scale(T* values, u64 count, float factor) {
    constexpr u32 N = 16 / sizeof(T);
    each_of_grid<N>(count, is_aligned<N>(values), [&](auto n, u64 at) {
        float v[n.N_];
        load(values + at, v);
        for (u32 i = 0; i < n; i++) v[i] *= factor;
        store(values + at, v);
    });
}

/// sums += factor * values, in f32: gradients of micro-batches, an adapter's addition.
template <typename S, typename T>
__device__ void add_scaled(S* sums, const T* values, u64 count, float factor) {
    constexpr u32 N = 4;
    each_of_grid<N>(count, is_aligned<N>(sums) && is_aligned<N>(values), [&](auto n, u64 at) {
        float s[n.N_], v[n.N_];
        load(sums + at, s);
        load(values + at, v);
        for (u32 i = 0; i < n; i++) s[i] += factor * v[i];
        store(sums + at, s);
    });
}

/// to = from, in to's type.
template <typename S, typename T>
__device__ void convert(const S* from, T* to, u64 count) {
    constexpr u32 N = 4;
    each_of_grid<N>(count, is_aligned<N>(from) && is_aligned<N>(to), [&](auto n, u64 at) {
        float v[n.N_];
        load(from + at, v);
        store(to + at, v);
    });
}

/// rows[r, c] += bias[c]; a block has a row.
template <typename T>
__device__ void add_bias(T* rows, const T* bias, u32 width) {
    constexpr u32 N = 16 / sizeof(T);
    T* const row = rows + u64(blockIdx.x) * width;
    each<N>(width, threadIdx.x, blockDim.x, is_aligned<N>(row) && is_aligned<N>(bias), [&](auto n, u64 at) {
        float v[n.N_], b[n.N_];
        load(row + at, v);
        load(bias + at, b);
        for (u32 i = 0; i < n; i++) v[i] += b[i];
        store(row + at, v);
    });
}

#define OF_ONE(T)                                                                            \
    KERNEL(256) void scale_##T(T* values, u64 count, float factor) { scale(values, count, factor); } \
    HOST_KERNEL(scale_##T)                                                                   \
    KERNEL(256) void add_bias_##T(T* rows, const T* bias, u32 width) { add_bias(rows, bias, width); } \
    HOST_KERNEL(add_bias_##T)

#define OF_TWO(S, T)                                                                                     \
    KERNEL(256) void add_scaled_##S##_##T(S* sums, const T* values, u64 count, float factor) {           \
        add_scaled(sums, values, count, factor);                                                         \
    }                                                                                                    \
    HOST_KERNEL(add_scaled_##S##_##T)                                                                    \
    KERNEL(256) void convert_##S##_##T(const S* from, T* to, u64 count) { convert(from, to, count); }    \
    HOST_KERNEL(convert_##S##_##T)

OF_ONE(float)
OF_ONE(bf16)
OF_TWO(float, float)
OF_TWO(float, bf16)
OF_TWO(bf16, float)
OF_TWO(bf16, bf16)
