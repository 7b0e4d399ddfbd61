// activation(gate) * up (Shazeer 2020), forward and backward; crates/spin-model/src/cpu/activation.rs.
//
// silu: with s = sigmoid(g), the derivative is s (1 + g (1 - s)).
// gelu: with t = tanh(u), u = c (g + a g^3), c = sqrt(2 / pi), a = 0.044715, the value is g (1 + t) / 2, the derivative
// (1 + t) / 2 + g (1 - t^2) c (1 + 3 a g^2) / 2.
#include "common.cuh"

struct Silu {
    __device__ static void at(float gate, float& value, float& slope) {
        const float s = 1.0f / (1.0f + expf(-gate));
        value = gate * s;
        slope = s + value * (1.0f - s);
    }
};

struct Gelu {
    __device__ static void at(float gate, float& value, float& slope) {
        constexpr float SCALE = 0.7978846f, CUBE = 0.044715f;
        const float square = gate * gate;
        const float t = tanhf(SCALE * gate * (1.0f + CUBE * square));
        const float bend = (1.0f - t * t) * SCALE * (1.0f + 3.0f * CUBE * square);
        value = 0.5f * gate * (1.0f + t);
        slope = 0.5f * (1.0f + t) + 0.5f * gate * bend;
    }
};

/// Numbers of T in 16 bytes, where rows of `width` of them, and the halves of twice as wide ones, all begin at 16 bytes.
template <typename T>
__device__ bool rows_aligned(const T* a, const T* b, u32 width) {
    constexpr u32 N = 16 / sizeof(T);
    return width % N == 0 && is_aligned<N>(a) && is_aligned<N>(b);
}

/// out [rows, width] from gate_up [rows, gate then up]; a block has rows blockIdx.x, blockIdx.x + gridDim.x, ...
template <typename F, typename T>
__device__ void gated_forward(const T* gate_up, T* out, u32 rows, u32 width) {
    const bool aligned = rows_aligned(gate_up, out, width);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* gates = gate_up + u64(row) * 2 * width;
        T* outs = out + u64(row) * width;
        each<16 / sizeof(T)>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
            float gate[n.N_], up[n.N_];
            load(gates + at, gate);
            load(gates + width + at, up);
            for (u32 i = 0; i < n; i++) {
                float value, slope;
                F::at(gate[i], value, slope);
                up[i] *= value;
            }
            store(outs + at, up);
        });
    }
}

/// Turns gate_up into its own gradient, given that of the output: one buffer less where memory is short.
template <typename F, typename T>
__device__ void gated_backward(T* gate_up, const T* grad, u32 rows, u32 width) {
    const bool aligned = rows_aligned(gate_up, grad, width);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        T* gates = gate_up + u64(row) * 2 * width;
        const T* grads = grad + u64(row) * width;
        each<16 / sizeof(T)>(width, threadIdx.x, blockDim.x, aligned, [&](auto n, u64 at) {
            float gate[n.N_], up[n.N_], g[n.N_];
            load(gates + at, gate);
            load(gates + width + at, up);
            load(grads + at, g);
            for (u32 i = 0; i < n; i++) {
                float value, slope;
                F::at(gate[i], value, slope);
                gate[i] = g[i] * up[i] * slope;
                up[i] = g[i] * value;
            }
            store(gates + at, gate);
            store(gates + width + at, up);
        });
    }
}

#define GATED(NAME, F, T)                                                                                   \
    KERNEL(256) void NAME##_forward_##T(const T* gate_up, T* out, u32 rows, u32 width) {                    \
        gated_forward<F>(gate_up, out, rows, width);                                                        \
    }                                                                                                       \
    HOST_KERNEL(NAME##_forward_##T)                                                                         \
    KERNEL(256) void NAME##_backward_##T(T* gate_up, const T* grad, u32 rows, u32 width) {                  \
        gated_backward<F>(gate_up, grad, rows, width);                                                      \
    }                                                                                                       \
    HOST_KERNEL(NAME##_backward_##T)

GATED(silu, Silu, float)
GATED(silu, Silu, bf16)
GATED(gelu, Gelu, float)
GATED(gelu, Gelu, bf16)
