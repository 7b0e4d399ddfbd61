// Rotary position embeddings (Su et al. 2021) in the half-split layout of Hugging Face: dimension i is rotated together
// with i + half; crates/spin-model/src/rope.rs. The gradient is the rotation the other way (direction -1).
#include "common.cuh"

/// Rotates in place the first `heads` heads of each row, which has `stride` numbers; dimensions from 2 half on stay.
/// cos and sin are [positions, half] f32. A block has a row, a thread a pair; neighbours have neighbouring dimensions.
template <typename T>
__device__ void rotate(T* rows, const u32* positions, const float* cos, const float* sin, u32 heads, u32 dim, u32 half,
                       u64 stride, float direction) {
    T* const row = rows + blockIdx.x * stride;
    const u64 angles = u64(positions[blockIdx.x]) * half;
    for (u32 at = threadIdx.x; at < heads * half; at += blockDim.x) {
        const u32 head = at / half, pair = at % half;
        T* const first = row + head * dim + pair;
        const float c = cos[angles + pair], s = sin[angles + pair] * direction;
        const float a = to_f32(first[0]), b = to_f32(first[half]);
        first[0] = from_f32<T>(a * c - b * s);
        first[half] = from_f32<T>(b * c + a * s);
    }
}

#define ROTATE(T)                                                                                                  \
    KERNEL(256)                                                                                                    \
    void rotate_##T(T* rows, const u32* positions, const float* cos, const float* sin, u32 heads,                  \
                    u32 dim, u32 half, u64 stride, float direction) {                                              \
        rotate(rows, positions, cos, sin, heads, dim, half, stride, direction);                             \
    }                                                                                                              \
    HOST_KERNEL(rotate_##T)

ROTATE(float)
ROTATE(bf16)
