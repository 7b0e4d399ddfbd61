// Sums over rows in a fixed order: parts of PART rows first, then the parts one after the other. No atomic additions:
// the same rows give the same bits on every run, which gradients of norms and biases need.
#include "common.cuh"

/// parts[p, c] = sum over the p-th `part` rows of rows[r, c]; the gradient of a bias. A thread has one column, so that
/// a warp reads 32 neighbours.
template <typename T>
__device__ void column_parts(const T* rows, float* parts, u32 count, u32 width, u32 part) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const u32 first = blockIdx.y * part;
    const u32 last = first + part < count ? first + part : count;
    float sum = 0.0f;
    for (u32 row = first; row < last; row++) sum += to_f32(rows[u64(row) * width + column]);
    parts[u64(blockIdx.y) * width + column] = sum;
}

KERNEL(128) void column_parts_float(const float* rows, float* parts, u32 count, u32 width, u32 part) {
    column_parts(rows, parts, count, width, part);
}
HOST_KERNEL(column_parts_float)

KERNEL(128) void column_parts_bf16(const bf16* rows, float* parts, u32 count, u32 width, u32 part) {
    column_parts(rows, parts, count, width, part);
}
HOST_KERNEL(column_parts_bf16)

/// out[c] += parts[0, c] + parts[1, c] + ...
KERNEL(128) void add_parts(const float* parts, float* out, u32 count, u32 width) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (u32 part = 0; part < count; part++) sum += parts[u64(part) * width + column];
    out[column] += sum;
}
HOST_KERNEL(add_parts)
