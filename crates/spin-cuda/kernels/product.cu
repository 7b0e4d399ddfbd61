// A matrix product for tests: what cuBLASLt is asked for (src/cuda/blas.rs), one number at a time. Factors f32 or bf16,
// sums f32 in the order of the inner dimension, as a tensor core's are not.
#include "common.cuh"

/// out [m, n] = a b or out += a b, where element (i, k) of a is a[i * a_row + k * a_column], and likewise b (k, j).
template <typename T>
__device__ void product(const T* a, const T* b, float* out, u32 m, u32 n, u32 k, u64 a_row, u64 a_column, u64 b_row,
                        u64 b_column, u32 add) {
    each_of_grid<1>(u64(m) * n, false, [&](auto, u64 at) {
        const T* of_a = a + at / n * a_row;
        const T* of_b = b + at % n * b_column;
        float sum = add ? out[at] : 0.0f;
        for (u32 i = 0; i < k; i++) sum += to_f32(of_a[i * a_column]) * to_f32(of_b[i * b_row]);
        out[at] = sum;
    });
}

#define PRODUCT(T)                                                                                                  \
    KERNEL(256)                                                                                                     \
    void product_##T(const T* a, const T* b, float* out, u32 m, u32 n, u32 k, u64 a_row, u64 a_column, u64 b_row,   \
                     u64 b_column, u32 add) {                                                                       \
        product(a, b, out, m, n, k, a_row, a_column, b_row, b_column, add);                                         \
    }                                                                                                               \
    HOST_KERNEL(product_##T)

PRODUCT(float)
PRODUCT(bf16)
