// The norm of all gradients, and what clips them: torch.nn.utils.clip_grad_norm_, crates/spin-model/src/gradients.rs.
//
// Squares are added in f64, in an order that depends on nothing but the number of values: chunks of CHUNK, each by one
// block, then the chunks' sums by one block. Nothing goes to the host before the optimiser has made its step.
#include "common.cuh"

/// parts[chunk] = sum of the squares of values[chunk * chunk_len ..].
KERNEL(256) void squared_norm_parts(const float* values, double* parts, u64 count, u32 chunk_len) {
    const u64 first = u64(blockIdx.x) * chunk_len;
    const u64 len = first + chunk_len < count ? chunk_len : count - first;
    values += first;
    double sum = 0.0;
    each<4>(len, threadIdx.x, blockDim.x, is_aligned<4>(values), [&](auto n, u64 at) {
        float v[n.N_];
        load(values + at, v);
        for (u32 i = 0; i < n; i++) sum += double(v[i]) * double(v[i]);
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
HOST_KERNEL(squared_norm_parts)

/// From the sums of all chunks of all tensors: norm[0] = their root; factor[0] = max_norm / (norm + 1e-6) where that
/// clips, 1 where it does not or the norm is not finite (max_norm 0: never). One block.
KERNEL(256) void clip_factor(const double* parts, double* norm, float* factor, u32 count, double max_norm) {
    double sum = 0.0;
    for (u32 at = threadIdx.x; at < count; at += blockDim.x) sum += parts[at];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const double root = sqrt(sum);
    const double clip = max_norm / (root + 1e-6);
    norm[0] = root;
    factor[0] = max_norm > 0.0 && root < 1.0 / 0.0 && clip < 1.0 ? float(clip) : 1.0f;
}
HOST_KERNEL(clip_factor)
