// The output head's loss: from a chunk of logits [rows, vocab] f32 to log-probabilities of targets, and back to the
// logits' gradient; crates/spin-model/src/cpu/head.rs.
//
// With p = softmax(z), one-hot target e, smoothing s and slope g: dL/dz = g ((1 - s) e + s / V - p); a soft cap c, which
// makes z = c tanh(r / c), multiplies that by 1 - (z / c)^2. A block has a row.
#include "common.cuh"

/// The largest of a row's logits, and the sum of e^(logit - largest), each thread over its own numbers, in one reading;
/// `visit(logits)` may change them before.
template <typename F>
__device__ void row_sums(float* row, u32 vocab, bool writes, F visit, float& best, float& sum) {
    float own = minus_infinity(), total = 0.0f;
    each<4>(vocab, threadIdx.x, blockDim.x, is_aligned<4>(row), [&](auto n, u64 at) {
        float z[n.N_];
        load(row + at, z);
        float larger = own;
        for (u32 i = 0; i < n; i++) larger = fmaxf(larger, z[i] = visit(z[i]));
        if (writes) store(row + at, z);
        if (larger == minus_infinity()) return;
        total *= expf(own - larger);  // 0 where there was nothing: e^-inf
        for (u32 i = 0; i < n; i++) total += expf(z[i] - larger);
        own = larger;
    });
    best = block_max(own);
    sum = block_sum(own == minus_infinity() ? 0.0f : total * expf(own - best));
}

/// Caps the logits in place, and gives each row's log-sum-exp and the log-probability that counts: with smoothing,
/// (1 - s) of the target's and s of the mean over the vocabulary.
KERNEL(512)
void head_logps(float* logits, const u32* targets, float* logps, float* log_sums, u32 vocab, float softcap,
                float smoothing) {
    float* row = logits + u64(blockIdx.x) * vocab;
    float best, sum, own = 0.0f;
    row_sums(row, vocab, softcap > 0.0f, [&](float z) {
        z = soft_cap(z, softcap);
        own += z;
        return z;
    }, best, sum);
    if (smoothing > 0.0f) own = block_sum(own);
    if (threadIdx.x != 0) return;
    const float log_sum = best + logf(sum);
    // Written by another thread of the block, before the barriers of the sums.
    float counted = row[targets[blockIdx.x]];
    if (smoothing > 0.0f) counted += smoothing * (own / float(vocab) - counted);
    log_sums[blockIdx.x] = log_sum;
    logps[blockIdx.x] = counted - log_sum;
}
HOST_KERNEL(head_logps)

/// The gradient of the logits before their cap, from capped ones and the slopes of the loss by the log-probabilities.
/// `out` may be the logits themselves if it is f32.
template <typename T>
__device__ void head_gradient(const float* logits, const u32* targets, const float* slopes, const float* log_sums,
                              T* out, u32 vocab, float softcap, float smoothing) {
    const float* row = logits + u64(blockIdx.x) * vocab;
    T* to = out + u64(blockIdx.x) * vocab;
    const float slope = slopes[blockIdx.x], log_sum = log_sums[blockIdx.x], spread = smoothing / float(vocab);
    const u32 target = targets[blockIdx.x];
    each<4>(vocab, threadIdx.x, blockDim.x, is_aligned<4>(row) && is_aligned<4>(to), [&](auto n, u64 at) {
        float z[n.N_];
        load(row + at, z);
        for (u32 i = 0; i < n; i++) {
            const float bend = soft_cap_slope(z[i], softcap);
            const float hit = at + i == target ? 1.0f - smoothing : 0.0f;
            z[i] = slope * (spread + hit - expf(z[i] - log_sum)) * bend;
        }
        store(to + at, z);
    });
}

#define GRADIENT(T)                                                                                                  \
    KERNEL(512)                                                                                                      \
    void head_gradient_##T(const float* logits, const u32* targets, const float* slopes, const float* log_sums,      \
                           T* out, u32 vocab, float softcap, float smoothing) {                                      \
        head_gradient(logits, targets, slopes, log_sums, out, vocab, softcap, smoothing);                            \
    }                                                                                                                \
    HOST_KERNEL(head_gradient_##T)

GRADIENT(float)
GRADIENT(bf16)
