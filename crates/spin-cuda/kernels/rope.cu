// Rotary position embeddings (Su et al. 2021) in the half-split layout of Hugging Face: dimension i is rotated together
// with i + half; crates/spin-model/src/rope.rs. The gradient is the rotation the other way (direction -1).
#include "common.cuh"

/// Rotates in place the first `heads` heads of each row, which has `stride` numbers; dimensions from 2 half on stay.
/// cos and sin are [positions, half] f32. A thread has one pair; neighbours have neighbouring dimensions.
template <typename T>
__device__ void rotate(T* rows, const u32* positions, const float* cos, const float* sin, u32 count, u32 heads,
                       u32 dim, u32 half, u64 stride, float direction) {
    each_of_grid<1>(u64(count) * heads * half, false, [&](auto, u64 at) {
        const u32 pair = u32(at % half);
        const u32 head = u32(at / half % heads);
        const u64 row = at / half / heads;
        T* first = rows + row * stride + u64(head) * dim + pair;
        const u64 angle = u64(positions[row]) * half + pair;
        const float c = cos[angle], s = sin[angle] * direction;
        const float a = to_f32(first[0]), b = to_f32(first[half]);
        first[0] = from_f32<T>(a * c - b * s);
        first[half] = from_f32<T>(b * c + a * s);
    });
}

#define ROTATE(T)                                                                                                  \
    KERNEL(256)                                                                                                    \
    void rotate_##T(T* rows, const u32* positions, const float* cos, const float* sin, u32 count, u32 heads,       \
                    u32 dim, u32 half, u64 stride, float direction) {                                              \
        rotate(rows, positions, cos, sin, count, heads, dim, half, stride, direction);                             \
    }                                                                                                              \
    HOST_KERNEL(rotate_##T)

ROTATE(float)
ROTATE(bf16)
