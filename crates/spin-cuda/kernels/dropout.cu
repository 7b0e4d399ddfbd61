// Dropout that can be replayed, by the bits of the CPU: crates/spin-model/src/dropout.rs.
#include "common.cuh"

/// values[i] *= 0 or kept, by 32 random bits of (key, first + i) against a threshold.
template <typename T>
__device__ void dropout(T* values, u64 count, u64 first, u64 key, u32 threshold, float kept) {
    constexpr u32 N = 16 / sizeof(T);
    each_of_grid<N>(count, is_aligned<N>(values), [&](auto n, u64 at) {
        float v[n.N_];
        load(values + at, v);
        for (u32 i = 0; i < n; i++) v[i] *= u32(mix(key ^ mix(first + at + i))) < threshold ? 0.0f : kept;
        store(values + at, v);
    });
}

#define DROPOUT(T)                                                                                          \
    KERNEL(256) void dropout_##T(T* values, u64 count, u64 first, u64 key, u32 threshold, float kept) {     \
        dropout(values, count, first, key, threshold, kept);                                                \
    }                                                                                                       \
    HOST_KERNEL(dropout_##T)

DROPOUT(float)
DROPOUT(bf16)
