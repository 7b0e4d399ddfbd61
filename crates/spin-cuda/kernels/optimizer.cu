// AdamW and RMSProp on f32 masters, fused with clipping and with rounding the weights: one read and one write of all
// that a step touches. crates/spin-fit/src/optim/rule.rs, operation by operation: each is rounded by itself (no fused
// multiply-add), in the order of the CPU, so that equal gradients give equal bits.
#include "common.cuh"

/// The constants of a step, made in f64 on the host as Rule::update does.
struct AdamW {
    float step_size, root_correction, keep, first_rest, second_beta, second_rest, eps;

    /// New master from master, gradient, mean and square, which change.
    __device__ float operator()(float param, float grad, float& mean, float& square) const {
        mean = __fadd_rn(mean, __fmul_rn(first_rest, __fsub_rn(grad, mean)));
        square = __fadd_rn(__fmul_rn(second_beta, square), __fmul_rn(__fmul_rn(second_rest, grad), grad));
        const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(square), root_correction), eps);
        return __fsub_rn(__fmul_rn(param, keep), __fmul_rn(step_size, __fdiv_rn(mean, root)));
    }
};

struct RmsProp {
    float lr, alpha, rest, eps, decay;

    __device__ float operator()(float param, float grad, float&, float& square) const {
        grad = __fadd_rn(grad, __fmul_rn(decay, param));
        square = __fadd_rn(__fmul_rn(alpha, square), __fmul_rn(__fmul_rn(rest, grad), grad));
        return __fsub_rn(param, __fdiv_rn(__fmul_rn(lr, grad), __fadd_rn(__fsqrt_rn(square), eps)));
    }
};

/// One step on `count` weights. `factor` is what gradients are multiplied with first (clipping), or null. `means` is
/// null for RMSProp; `weights` (bf16) is null where the weights are the masters.
template <typename Rule>
__device__ void update(const Rule& rule, float* masters, const float* grads, float* means, float* squares,
                       bf16* weights, const float* factor, u64 count) {
    constexpr u32 N = 4;
    const bool aligned = is_aligned<N>(masters) && is_aligned<N>(grads) && is_aligned<N>(means) &&
                         is_aligned<N>(squares) && is_aligned<N>(weights);
    const float clip = factor == nullptr ? 1.0f : *factor;
    each_of_grid<N>(count, aligned, [&](auto n, u64 at) {
        float param[n.N_], grad[n.N_], mean[n.N_] = {}, square[n.N_];
        load(masters + at, param);
        load(grads + at, grad);
        load(squares + at, square);
        if (means != nullptr) load(means + at, mean);
        for (u32 i = 0; i < n; i++) param[i] = rule(param[i], __fmul_rn(grad[i], clip), mean[i], square[i]);
        store(masters + at, param);
        store(squares + at, square);
        if (means != nullptr) store(means + at, mean);
        if (weights != nullptr) store(weights + at, param);
    });
}

KERNEL(256)
void adamw(float* masters, const float* grads, float* means, float* squares, bf16* weights, const float* factor,
           u64 count, float step_size, float root_correction, float keep, float first_rest, float second_beta,
           float second_rest, float eps) {
    const AdamW rule{step_size, root_correction, keep, first_rest, second_beta, second_rest, eps};
    update(rule, masters, grads, means, squares, weights, factor, count);
}
HOST_KERNEL(adamw)

KERNEL(256)
void rmsprop(float* masters, const float* grads, float* squares, bf16* weights, const float* factor, u64 count,
             float lr, float alpha, float rest, float eps, float decay) {
    const RmsProp rule{lr, alpha, rest, eps, decay};
    update(rule, masters, grads, static_cast<float*>(nullptr), squares, weights, factor, count);
}
HOST_KERNEL(rmsprop)
