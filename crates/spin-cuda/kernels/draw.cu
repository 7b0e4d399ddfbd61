// Drawing tokens on the device, by the rule and the noise of the CPU: crates/spin-sample/src/{choose,noise}.rs, and
// softmax_weights of crates/spin-model/src/logits.rs. 16 bytes a sequence go back to the host.
//
// The token is the one with the largest score / T + Gumbel noise of those that the filters leave in. Everything that
// decides it is done as on the CPU: weights by the same polynomial in f32, their sums in the same order, noise in f64.
// Two things are in another order: what top-p adds up (here in fixed point, where the order is of no matter), and the
// logarithms, which are the device's; both could move a token only where a sum, or two scores, meet to 11 digits.
#include "common.cuh"

/// How a sequence's next token is drawn; src/draw.rs has the same layout.
struct Draw {
    u64 key[2];
    u64 step;
    double temperature;  // 0 is greedy
    double top_p;        // 1 keeps all
    double log_min_p;    // natural logarithm; minus infinity keeps all
    u32 top_k;           // 0 keeps all
    u32 active;          // 0: of no sequence, as rows of a captured graph may be
};

/// A token with natural logarithms of probabilities: under the model, at the temperature, as it was drawn.
struct Choice {
    u32 id;  // NO_TOKEN: a logit is NaN or infinite, or all are minus infinity
    float logp, temperature_logp, sampling_logp;
};

constexpr u32 NO_TOKEN = 0xFFFFFFFFu;
constexpr u32 LANES = 16, BLOCK = 1024;  // of softmax_weights
constexpr u32 MOST = 1024;               // threads

/// e^x as crates/spin-model/src/cpu/math.rs has it, operation by operation.
__device__ inline float polynomial_exp(float x) {
    constexpr float ROUNDER = 12582912.0f, LOG2_E = 1.44269504f, LN_2_HIGH = 0.6933594f, LN_2_LOW = -2.1219444e-4f;
    x = fminf(fmaxf(x, -87.3f), 87.3f);
    const float shifted = __fmaf_rn(x, LOG2_E, ROUNDER);
    const float n = __fsub_rn(shifted, ROUNDER);
    const float r = __fmaf_rn(n, -LN_2_LOW, __fmaf_rn(n, -LN_2_HIGH, x));
    float p = 1.9875691e-4f;
    p = __fmaf_rn(p, r, 1.3981999e-3f);
    p = __fmaf_rn(p, r, 8.333452e-3f);
    p = __fmaf_rn(p, r, 4.1665796e-2f);
    p = __fmaf_rn(p, r, 1.6666665e-1f);
    p = __fmaf_rn(p, r, 5e-1f);
    const float y = __fadd_rn(__fmaf_rn(__fmul_rn(p, r), r, r), 1.0f);
    return __fmul_rn(y, __uint_as_float((__float_as_uint(shifted) << 23) + 0x3F800000u));
}

/// e^((logit - top) / temperature), 0 below e^-87.
__device__ inline float weight_of(float logit, float top, float scale) {
    const float score = __fmul_rn(__fsub_rn(logit, top), scale);
    return score > -87.0f ? polynomial_exp(score) : 0.0f;
}

/// The sum of all weights, in the order of softmax_weights: 16 lanes of 1024 logits each in f32, the lanes in their
/// order, then the blocks in f64. A thread has a lane, 64 blocks go at once.
__device__ double total_weight(const float* logits, u32 vocab, float top, float scale) {
    SHARED(float, lanes, MOST);
    SHARED(double, sums, MOST / LANES);
    SHARED(double, total, 1);
    const u32 thread = threadIdx.x, at_once = blockDim.x / LANES;
    if (thread == 0) total[0] = 0.0;
    for (u32 first = 0; first * BLOCK < vocab; first += at_once) {
        const u32 start = (first + thread / LANES) * BLOCK;
        float sum = 0.0f;
        for (u32 at = thread % LANES; at < BLOCK && start + at < vocab; at += LANES)
            sum = __fadd_rn(sum, weight_of(logits[start + at], top, scale));
        lanes[thread] = sum;
        __syncthreads();
        if (thread < at_once) {
            float of_block = lanes[thread * LANES];
            for (u32 lane = 1; lane < LANES; lane++) of_block = __fadd_rn(of_block, lanes[thread * LANES + lane]);
            sums[thread] = double(of_block);
        }
        __syncthreads();
        if (thread == 0)
            for (u32 i = 0; i < at_once && (first + i) * BLOCK < vocab; i++) total[0] += sums[i];
    }
    __syncthreads();
    const double all = total[0];
    __syncthreads();
    return all;
}

/// Larger floats have larger codes, by Rust's total_cmp.
__device__ inline u32 code_of(float value) {
    const u32 bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float of_code(u32 code) {
    return __uint_as_float(code & 0x80000000u ? code & 0x7FFFFFFFu : ~code);
}

/// The largest code c such that the codes from c on, of at least `least`, together weigh at least `wanted`; the smallest
/// of them where all weigh less. Radix selection, a byte at a time: weights are integers, whose sums are the same in
/// any order. `weigh(score)` is 1 for top-k.
template <typename F>
__device__ u32 select(const float* scores, u32 vocab, u32 least, u64 wanted, F weigh) {
    SHARED(u64, bins, 256);
    SHARED(u32, counts, 256);
    SHARED(u32, found, 1);
    SHARED(u64, rest, 1);
    u32 prefix = 0;
    for (u32 shift = 32; shift > 0;) {
        shift -= 8;
        for (u32 bin = threadIdx.x; bin < 256; bin += blockDim.x) bins[bin] = 0, counts[bin] = 0;
        __syncthreads();
        for (u32 token = threadIdx.x; token < vocab; token += blockDim.x) {
            const u32 code = code_of(scores[token]);
            if (code < least || (shift < 24 && code >> (shift + 8) != prefix)) continue;
            atomicAdd(&counts[code >> shift & 255u], 1u);
            atomicAdd(&bins[code >> shift & 255u], u64(weigh(scores[token])));
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 lowest = 0;
            u64 left = wanted;
            bool reached = false;
            for (u32 bin = 256; bin > 0 && !reached;) {
                bin--;
                if (counts[bin] == 0) continue;
                lowest = bin;
                reached = bins[bin] >= left;
                if (!reached) left -= bins[bin];
            }
            // All weigh less: no bin of the bytes to come reaches this, so that each takes its lowest.
            found[0] = lowest;
            rest[0] = reached ? left : ~0ull;
        }
        __syncthreads();
        prefix = prefix << 8 | found[0];
        wanted = rest[0];
        __syncthreads();
    }
    return prefix;
}

/// The lowest score that the filters leave in; ties with it stay. Minus infinity where there are none.
__device__ float floor_of(const float* scores, u32 vocab, float best, const Draw& draw) {
    constexpr double ONE = 17592186044416.0;  // 2^44: 2^19 weights of at most 1 fit 64 bits
    const bool keep_k = draw.top_k > 0 && draw.top_k < vocab;
    float floor = minus_infinity();
    if (keep_k) floor = of_code(select(scores, vocab, 0, draw.top_k, [](float) { return 1u; }));
    if (draw.top_p < 1.0) {
        const auto weigh = [&](float score) {
            return u64(exp((double(score) - double(best)) / draw.temperature) * ONE + 0.5);
        };
        double total;
        u32 least = 0;
        if (!keep_k) {
            // As on the CPU: the f32 weights, added in f64.
            const float scale = float(1.0 / draw.temperature);
            double own = 0.0;
            for (u32 token = threadIdx.x; token < vocab; token += blockDim.x)
                own += double(weight_of(scores[token], best, scale));
            total = block_sum(own) * ONE;
        } else {
            // What ties with the last is kept, too; of the two zeros it may be either.
            least = code_of(floor == 0.0f ? -0.0f : floor);
            u64 own = 0;
            for (u32 token = threadIdx.x; token < vocab; token += blockDim.x)
                if (scores[token] >= floor) own += weigh(scores[token]);
            total = double(block_sum(own));
        }
        const double wanted = draw.top_p * total;
        floor = of_code(select(scores, vocab, least, u64(ceil(wanted)), weigh));
    }
    if (draw.log_min_p > double(minus_infinity())) {
        // The smallest f32 that is not below the limit.
        const double limit = double(best) + draw.temperature * draw.log_min_p;
        float nearest = float(limit);
        if (double(nearest) < limit) nearest = of_code(code_of(nearest == 0.0f ? 0.0f : nearest) + 1);
        floor = fmaxf(floor, nearest);
    }
    return floor;
}

/// score / T + Gumbel noise, from the noise of a step.
__device__ inline double raced(float score, float best, double temperature, u64 noise, u32 token) {
    const double uniform = (double(nth(noise, token) >> 12) + 0.5) / 4503599627370496.0;
    return (double(score) - double(best)) / temperature + -log(-log(uniform));
}

/// The first token whose score is `best`. All threads have to call it.
__device__ u32 first_of(const float* scores, u32 vocab, float best) {
    SHARED(u32, firsts, WARP);
    u32 first = NO_TOKEN;
    for (u32 token = threadIdx.x; token < vocab && first == NO_TOKEN; token += blockDim.x)
        if (scores[token] == best) first = token;
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) first = min(first, __shfl_xor_sync(ALL_LANES, first, offset));
    __syncthreads();
    if (threadIdx.x % WARP == 0) firsts[threadIdx.x / WARP] = first;
    __syncthreads();
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) first = min(first, firsts[warp]);
    return first;
}

/// The winner of the race: of each thread's tokens, then of the threads'. As -ln(u) >= 1 - u, a token whose (1 - u) /
/// weight is not below the smallest so far cannot win, so that few logarithms are taken.
__device__ u32 race(const float* scores, u32 vocab, float best, float floor, const Draw& draw, u64 noise) {
    SHARED(double, winnings, WARP);
    SHARED(u32, winners, WARP);
    const float scale = float(1.0 / draw.temperature);
    // More than the weights and products in f32 are off.
    const auto reach_of = [](double score) { return float(exp(-score) * 1.001); };
    u32 winner = first_of(scores, vocab, best);
    double winning = raced(scores[winner], best, draw.temperature, noise, winner);
    float reach = reach_of(winning);
    for (u32 token = threadIdx.x; token < vocab; token += blockDim.x) {
        const float score = scores[token];
        if (!(score >= floor)) continue;
        const float one_minus = float(int(0xFFFFFFu) - int(nth(noise, token) >> 40)) * (1.0f / 16777216.0f);
        if (!(one_minus < reach * weight_of(score, best, scale))) continue;
        const double own = raced(score, best, draw.temperature, noise, token);
        if (own > winning || (own == winning && token < winner)) {
            winner = token;
            winning = own;
            reach = reach_of(own);
        }
    }
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) {
        const double other = __shfl_xor_sync(ALL_LANES, winning, offset);
        const u32 token = __shfl_xor_sync(ALL_LANES, winner, offset);
        if (other > winning || (other == winning && token < winner)) winning = other, winner = token;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) winnings[threadIdx.x / WARP] = winning, winners[threadIdx.x / WARP] = winner;
    __syncthreads();
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++)
        if (winnings[warp] > winning || (winnings[warp] == winning && winners[warp] < winner))
            winning = winnings[warp], winner = winners[warp];
    return winner;
}

/// The largest logit, or minus infinity if a logit is NaN or infinity, or all are minus infinity.
__device__ float largest_logit(const float* logits, u32 vocab) {
    float own = minus_infinity(), broken = 0.0f;
    for (u32 token = threadIdx.x; token < vocab; token += blockDim.x) {
        if (!(logits[token] < -minus_infinity())) broken = 1.0f;
        own = fmaxf(own, logits[token]);
    }
    broken = block_max(broken);
    own = block_max(own);
    return broken > 0.0f ? minus_infinity() : own;
}

/// choices[s] from logits [sequences, vocab], a block to a sequence. `scores` are the logits with the repetition penalty
/// (penalise), or the logits themselves.
KERNEL(1024)
void draw_tokens(const float* logits, const float* scores, const Draw* draws, Choice* choices, u32 vocab) {
    const Draw draw = draws[blockIdx.x];
    if (!draw.active) return;
    const float* own = logits + u64(blockIdx.x) * vocab;
    const float* penalised = scores + u64(blockIdx.x) * vocab;
    const bool greedy = draw.temperature == 0.0;
    const double temperature = greedy ? 1.0 : draw.temperature;
    const float scale = float(1.0 / temperature);
    const float top = largest_logit(own, vocab);
    const float best = penalised == own ? top : largest_logit(penalised, vocab);
    if (top == minus_infinity() || best == minus_infinity()) {
        if (threadIdx.x == 0) choices[blockIdx.x] = Choice{NO_TOKEN, 0.0f, 0.0f, 0.0f};
        return;
    }
    const double total = total_weight(own, vocab, top, 1.0f);
    const double warm = temperature == 1.0 ? total : total_weight(own, vocab, top, scale);
    double kept = penalised == own ? warm : total_weight(penalised, vocab, best, scale);
    u32 id;
    if (greedy) {
        id = first_of(penalised, vocab, best);
    } else {
        const float floor = floor_of(penalised, vocab, best, draw);
        if (floor > minus_infinity()) {
            double sum = 0.0;
            for (u32 token = threadIdx.x; token < vocab; token += blockDim.x)
                if (penalised[token] >= floor) sum += double(weight_of(penalised[token], best, scale));
            kept = block_sum(sum);
        }
        id = race(penalised, vocab, best, floor, draw, finalize(draw.key[0] ^ finalize(draw.key[1] + draw.step * WEYL)));
    }
    if (threadIdx.x != 0) return;
    const double logit = own[id], score = penalised[id];
    choices[blockIdx.x] = Choice{id, float(logit - double(top) - log(total)),
                                 float((logit - double(top)) / temperature - log(warm)),
                                 greedy ? 0.0f : float((score - double(best)) / temperature - log(kept))};
}
HOST_KERNEL(draw_tokens)

/// scores[s, id] = the logit with the repetition penalty (Keskar et al. 2019), for the ids of contexts[starts[s] ..
/// starts[s + 1]]; scores are a copy of the logits before. An id that stands twice is written twice, alike.
KERNEL(256)
void penalise(const float* logits, float* scores, const u32* contexts, const u32* starts, u32 vocab, float penalty) {
    const u32 last = starts[blockIdx.x + 1];
    for (u32 at = starts[blockIdx.x] + threadIdx.x; at < last; at += blockDim.x) {
        if (contexts[at] >= vocab) continue;
        const u64 token = u64(blockIdx.x) * vocab + contexts[at];
        const float logit = logits[token];
        scores[token] = logit < 0.0f ? __fmul_rn(logit, penalty) : __fdiv_rn(logit, penalty);
    }
}
HOST_KERNEL(penalise)
