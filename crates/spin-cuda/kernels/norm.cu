// Root-mean-square normalisation (Zhang and Sennrich 2019), forward and backward; crates/spin-model/src/cpu/norm.rs.
//
// With r = 1 / sqrt(mean(x^2) + eps), n = r x, s = w + offset and y = s n:
//   dL/dx = r (s g - n mean(s g n))  and  dL/dw = sum over rows of g n.
//
// The numbers that are normalised together are a row, or one head of a row: `heads` of them lie side by side at the
// beginning of every `stride` numbers (a plain matrix has heads = 1 and stride = width). Blocks are (32, many), a warp
// to a row, or (many, 1), a block to a row; the launch chooses by the width.
#include "common.cuh"

/// Where the index-th row begins.
__device__ inline u64 row_at(u32 index, u32 width, u32 heads, u64 stride) {
    return index / heads * stride + u64(index % heads) * width;
}

/// The sum over the threads of a row.
__device__ inline float row_sum(float value) { return blockDim.x == WARP ? warp_sum(value) : block_sum(value); }

/// Numbers that a thread reads at once: 16 bytes of the narrower of two types.
template <typename A, typename B>
constexpr u32 PACK = sizeof(A) == 2 && sizeof(B) == 2 ? 8 : 4;

/// y = (w + offset) x r, or y += that: the norm after a projection, added to the residual stream.
template <typename X, typename Y, typename W>
__device__ void rms_norm_forward(const X* x, const W* weight, Y* y, u32 rows, u32 width, u32 heads, u64 x_stride,
                                 u64 y_stride, float offset, float eps, u32 add) {
    const u32 index = blockIdx.x * blockDim.y + threadIdx.y;
    if (index >= rows) return;  // Whole warps: x has 32 threads where y has more than one.
    x += row_at(index, width, heads, x_stride);
    y += row_at(index, width, heads, y_stride);
    constexpr u32 N = PACK<X, Y>;
    const bool aligned = is_aligned<N>(x) && is_aligned<N>(y) && is_aligned<N>(weight);
    float squares = 0.0f;
    each<N>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
        float v[n.N_];
        load(x + at, v);
        for (u32 i = 0; i < n; i++) squares += v[i] * v[i];
    });
    const float inverse = 1.0f / sqrtf(row_sum(squares) / float(width) + eps);
    each<N>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
        float v[n.N_], w[n.N_], out[n.N_];
        load(x + at, v);
        load(weight + at, w);
        if (add) load(y + at, out);
        for (u32 i = 0; i < n; i++) {
            const float normed = v[i] * inverse * (w[i] + offset);
            out[i] = add ? out[i] + normed : normed;
        }
        store(y + at, out);
    });
}

/// inverses[index] = r: of use to both gradients, and there before either is written.
template <typename X>
__device__ void rms_norm_inverses(const X* x, float* inverses, u32 rows, u32 width, u32 heads, u64 x_stride, float eps) {
    const u32 index = blockIdx.x * blockDim.y + threadIdx.y;
    if (index >= rows) return;
    x += row_at(index, width, heads, x_stride);
    constexpr u32 N = 16 / sizeof(X);
    float squares = 0.0f;
    each<N>(width, threadIdx.x, blockDim.x, is_aligned<N>(x), [&](auto n, u64 at) {
        float v[n.N_];
        load(x + at, v);
        for (u32 i = 0; i < n; i++) squares += v[i] * v[i];
    });
    squares = row_sum(squares);
    if (threadIdx.x == 0) inverses[index] = 1.0f / sqrtf(squares / float(width) + eps);
}

/// x_grad from x and the output's gradient, or x_grad += that. x_grad may be grad itself where they have one type and
/// layout and nothing is added: a thread reads what it writes.
template <typename X, typename Y, typename W>
__device__ void rms_norm_backward(const X* x, const W* weight, const Y* grad, const float* inverses, X* x_grad,
                                  u32 rows, u32 width, u32 heads, u64 x_stride, u64 grad_stride, u64 x_grad_stride,
                                  float offset, u32 add) {
    const u32 index = blockIdx.x * blockDim.y + threadIdx.y;
    if (index >= rows) return;
    x += row_at(index, width, heads, x_stride);
    grad += row_at(index, width, heads, grad_stride);
    x_grad += row_at(index, width, heads, x_grad_stride);
    constexpr u32 N = PACK<X, Y>;
    const bool aligned = is_aligned<N>(x) && is_aligned<N>(grad) && is_aligned<N>(x_grad) && is_aligned<N>(weight);
    float products = 0.0f;
    each<N>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
        float v[n.N_], g[n.N_], w[n.N_];
        load(x + at, v);
        load(grad + at, g);
        load(weight + at, w);
        for (u32 i = 0; i < n; i++) products += (w[i] + offset) * g[i] * v[i];
    });
    const float inverse = inverses[index];
    const float mean = row_sum(products) * inverse / float(width);
    each<N>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
        float v[n.N_], g[n.N_], w[n.N_], out[n.N_];
        load(x + at, v);
        load(grad + at, g);
        load(weight + at, w);
        if (add) load(x_grad + at, out);
        for (u32 i = 0; i < n; i++) {
            const float own = inverse * ((w[i] + offset) * g[i] - v[i] * inverse * mean);
            out[i] = add ? out[i] + own : own;
        }
        store(x_grad + at, out);
    });
}

/// parts[p, c] = sum over the p-th `part` rows of g n: the weight's gradient, to be finished by add_parts. Goes
/// before rms_norm_backward where that writes over the gradient.
template <typename X, typename Y>
__device__ void rms_norm_weight_parts(const X* x, const Y* grad, const float* inverses, float* parts, u32 rows,
                                      u32 width, u32 heads, u64 x_stride, u64 grad_stride, u32 part) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const u32 first = blockIdx.y * part;
    const u32 last = first + part < rows ? first + part : rows;
    float sum = 0.0f;
    for (u32 index = first; index < last; index++) {
        const float v = to_f32(x[row_at(index, width, heads, x_stride) + column]);
        const float g = to_f32(grad[row_at(index, width, heads, grad_stride) + column]);
        sum += g * (v * inverses[index]);
    }
    parts[u64(blockIdx.y) * width + column] = sum;
}

#define NORM(NAME, X, Y, W)                                                                                          \
    KERNEL(256)                                                                                                      \
    void rms_norm_forward_##NAME(const X* x, const W* weight, Y* y, u32 rows, u32 width, u32 heads, u64 x_stride,    \
                                 u64 y_stride, float offset, float eps, u32 add) {                                   \
        rms_norm_forward(x, weight, y, rows, width, heads, x_stride, y_stride, offset, eps, add);                    \
    }                                                                                                                \
    HOST_KERNEL(rms_norm_forward_##NAME)                                                                             \
    KERNEL(256)                                                                                                      \
    void rms_norm_backward_##NAME(const X* x, const W* weight, const Y* grad, const float* inverses, X* x_grad,      \
                                  u32 rows, u32 width, u32 heads, u64 x_stride, u64 grad_stride, u64 x_grad_stride,  \
                                  float offset, u32 add) {                                                           \
        rms_norm_backward(x, weight, grad, inverses, x_grad, rows, width, heads, x_stride, grad_stride,              \
                          x_grad_stride, offset, add);                                                               \
    }                                                                                                                \
    HOST_KERNEL(rms_norm_backward_##NAME)                                                                            \
    KERNEL(128)                                                                                                      \
    void rms_norm_weight_parts_##NAME(const X* x, const Y* grad, const float* inverses, float* parts, u32 rows,      \
                                      u32 width, u32 heads, u64 x_stride, u64 grad_stride, u32 part) {               \
        rms_norm_weight_parts(x, grad, inverses, parts, rows, width, heads, x_stride, grad_stride, part);            \
    }                                                                                                                \
    HOST_KERNEL(rms_norm_weight_parts_##NAME)

NORM(float_float, float, float, float)
NORM(float_bf16, float, bf16, bf16)
NORM(bf16_float, bf16, float, bf16)
NORM(bf16_bf16, bf16, bf16, bf16)

#define INVERSES(X)                                                                                                  \
    KERNEL(256)                                                                                                      \
    void rms_norm_inverses_##X(const X* x, float* inverses, u32 rows, u32 width, u32 heads, u64 x_stride,            \
                               float eps) {                                                                          \
        rms_norm_inverses(x, inverses, rows, width, heads, x_stride, eps);                                           \
    }                                                                                                                \
    HOST_KERNEL(rms_norm_inverses_##X)

INVERSES(float)
INVERSES(bf16)
