// Scores of tokens after rows of logits: log-probability, and whether the token is the likeliest;
// crates/spin-model/src/cpu/{head,scores}.rs. Logits may be rounded as a model that computes in bf16 or f16 does it.
#include "common.cuh"

/// 0: f32, 1: bf16, 2: f16.
__device__ inline float rounded(float value, u32 rounding) {
    if (rounding == 1) return to_f32(from_f32<bf16>(value));
    if (rounding != 2) return value;
    // To nearest even with 11 significant bits, from 2^-14 on; below, multiples of 2^-24.
    const u32 bits = __float_as_uint(value), sign = bits & 0x80000000u, size = bits ^ sign;
    if (size >= 0x7F800000u) return value;
    if (size >= 0x477FF000u) return __uint_as_float(sign | 0x7F800000u);
    if (size < 0x38800000u) {
        // Adding 0.75 leaves multiples of 2^-24: the additions round to them.
        const float steps = __fsub_rn(__fadd_rn(__uint_as_float(size), 0.75f), 0.75f);
        return __uint_as_float(sign | __float_as_uint(steps));
    }
    return __uint_as_float(sign | ((size + 0x0FFFu + ((size >> 13) & 1u)) & 0xFFFFE000u));
}

/// logits [rows, vocab], capped and divided by the temperature here; targets[i] is a token after row
/// `row` for starts[row] <= i < starts[row + 1]. A block has a row.
KERNEL(512)
void score_targets(const float* logits, const u32* starts, const u32* targets, float* logps, u32* greedy, u32 vocab,
                   float softcap, float scale, u32 rounding) {
    const float* row = logits + u64(blockIdx.x) * vocab;
    const u32 first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    if (first == last) return;
    const auto logit_at = [&](u32 token) { return rounded(soft_cap(row[token], softcap) * scale, rounding); };
    float best = minus_infinity();
    for (u32 token = threadIdx.x; token < vocab; token += blockDim.x) {
        const float logit = logit_at(token);
        best = fmaxf(best, logit);
    }
    best = block_max(best);
    // Minus infinity stands for numbers that are none, or for no probability.
    const float base = best == minus_infinity() ? 0.0f : best;
    float sum = 0.0f;
    for (u32 token = threadIdx.x; token < vocab; token += blockDim.x) sum += expf(logit_at(token) - base);
    sum = block_sum(sum);
    const float log_sum = logf(sum);
    const auto logp_of = [&](float logit) { return rounded(logit - best - log_sum, rounding); };
    for (u32 at = first; at < last; at++) {
        const u32 target = targets[at];
        float before = minus_infinity();
        for (u32 token = threadIdx.x; token < target; token += blockDim.x) before = fmaxf(before, logit_at(token));
        before = block_max(before);
        if (threadIdx.x != 0) continue;
        const float logit = logit_at(target), logp = logp_of(logit);
        // Rounding keeps the order, but makes equals; the first of them counts.
        const bool is_greedy = rounding == 0 ? logit == best && before < best
                                             : logp == logp_of(best) && logp_of(before) < logp_of(best);
        logps[at] = logp;
        greedy[at] = is_greedy && sum == sum;
    }
}
HOST_KERNEL(score_targets)
