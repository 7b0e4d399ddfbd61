// The gradient of attention over rows that share prompts; crates/spin-model/src/cpu/attention/mod.rs.
//
// For one query row with probabilities p = e^(score - log_sum), output o and gradient g:
//   dp_j = g . v_j,  ds_j = p_j (dp_j - g . o),  dq = scale sum_j ds_j k_j,  dk_j += scale ds_j q,  dv_j += p_j g,
// and a soft cap multiplies ds by 1 - (score / cap)^2. Three kernels, none of which needs atomics:
//   attention_delta     g . o of each row and head,
//   attention_queries   a block has query rows and goes over their keys,
//   attention_keys      a block has keys and goes over the query rows of every sequence and head that sees them, in
//                       their order: sums are the same on every run.
#include "attend.cuh"
#include "spans.cuh"

struct Tile {
    u32 span, first, count;
};

/// Consecutive own rows of a span, as keys, with the spans first_span..last_span whose queries may see them: the span
/// itself and those that share its rows.
struct KeyTile {
    u32 span, first, count, first_span, last_span;
};

/// delta [rows, heads]: a warp to each; blocks of (32, 4).
template <typename T>
__device__ void attention_delta(const T* out, const T* grad, float* delta, u32 count, u32 dim) {
    const u32 at = blockIdx.x * blockDim.y + threadIdx.y;
    if (at >= count) return;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < dim; c += WARP) sum += to_f32(out[u64(at) * dim + c]) * to_f32(grad[u64(at) * dim + c]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) delta[at] = sum;
}

/// The probability of a score and the derivative by the score before its cap.
__device__ inline void slopes(float raw, float grad_of_p, float log_sum, float delta, float cap, float& p, float& ds) {
    const float score = soft_cap(raw, cap);
    p = expf(score - log_sum);
    ds = p * (grad_of_p - delta) * soft_cap_slope(score, cap);
}

/// The query part of qkv_grad; grid (tiles, heads). Shared memory: queries and gradients WARPS * ROWS * DIM each, keys
/// and values 32 * (DIM + 1) each, weights WARPS * ROWS * 32.
template <typename T, u32 DIM>
__device__ void attention_queries(const T* qkv, const T* grad, const float* log_sums, const float* delta, T* qkv_grad,
                                  const Span* spans, const Tile* tiles, Layout layout, Head head) {
    constexpr u32 R = ROWS<DIM>, PARTS = DIM / WARP;
    DYNAMIC_SHARED(memory);
    float* const queries = memory;
    float* const grads = queries + WARPS * R * DIM;
    float* const keys = grads + WARPS * R * DIM;
    float* const values = keys + WARP * (DIM + 1);
    float* const weights = values + WARP * (DIM + 1);
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, dim = head.dim;
    const Tile tile = tiles[blockIdx.x];
    const Span span = spans[tile.span];
    const u32 of_head = blockIdx.y, kv_head = of_head / (layout.heads / layout.kv_heads);
    const u32 row = span.own + tile.first, position = span.shared_len + tile.first;

    for (u32 at = threadIdx.x; at < WARPS * R * DIM; at += THREADS) {
        const u32 q = at / DIM, c = at % DIM;
        const bool real = q < tile.count && c < dim;
        queries[at] = real ? to_f32(qkv[layout.query(row + q, of_head, dim) + c]) * head.scale : 0.0f;
        grads[at] = real ? to_f32(grad[(u64(row + q) * layout.heads + of_head) * dim + c]) : 0.0f;
    }
    float sums[R][PARTS], log_sum[R], mean[R];
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        const u32 q = warp * R + r;
        const u64 at = u64(row + q) * layout.heads + of_head;
        log_sum[r] = q < tile.count ? log_sums[at] : 0.0f;
        mean[r] = q < tile.count ? delta[at] : 0.0f;
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) sums[r][i] = 0.0f;
    }
    const u32 last = position + tile.count;
    for (u32 first = layout.first_key(position); first < last; first += WARP) {
        __syncthreads();
        load_rows<DIM>(keys, first, last, dim, [&](u32 k) { return qkv + layout.key(row_of(span, k), kv_head, dim); });
        load_rows<DIM>(values, first, last, dim,
                       [&](u32 k) { return qkv + layout.value(row_of(span, k), kv_head, dim); });
        __syncthreads();
        float scores[R], products[R];
#pragma unroll
        for (u32 r = 0; r < R; r++) scores[r] = products[r] = 0.0f;
        add_dots<DIM>(queries + warp * R * DIM, keys + lane * (DIM + 1), scores);
        add_dots<DIM>(grads + warp * R * DIM, values + lane * (DIM + 1), products);
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const u32 q = warp * R + r, k = first + lane;
            float p, ds;
            slopes(scores[r], products[r], log_sum[r], mean[r], head.softcap, p, ds);
            weights[q * WARP + lane] = q < tile.count && k < last && layout.sees(position + q, k) ? ds : 0.0f;
        }
        __syncwarp();
        add_rows<DIM>(weights + warp * R * WARP, keys, sums);
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        const u32 q = warp * R + r;
        if (q >= tile.count) continue;
        T* const to = qkv_grad + layout.query(row + q, of_head, dim);
#pragma unroll
        for (u32 i = 0; i < PARTS; i++)
            if (i * WARP + lane < dim) to[i * WARP + lane] = from_f32<T>(sums[r][i] * head.scale);
    }
}

/// The key and value parts of qkv_grad; grid (key tiles, kv_heads). A lane has a query, a warp ROWS<DIM> keys. Shared
/// memory: keys and values WARPS * ROWS * DIM each, queries and gradients 32 * (DIM + 1) each, and for each key 32
/// probabilities and 32 derivatives.
template <typename T, u32 DIM>
__device__ void attention_keys(const T* qkv, const T* grad, const float* log_sums, const float* delta, T* qkv_grad,
                               const Span* spans, const KeyTile* tiles, Layout layout, Head head) {
    constexpr u32 R = ROWS<DIM>, PARTS = DIM / WARP;
    DYNAMIC_SHARED(memory);
    float* const keys = memory;
    float* const values = keys + WARPS * R * DIM;
    float* const queries = values + WARPS * R * DIM;
    float* const grads = queries + WARP * (DIM + 1);
    float* const probs = grads + WARP * (DIM + 1);
    float* const weights = probs + WARPS * R * WARP;
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, dim = head.dim;
    const KeyTile tile = tiles[blockIdx.x];
    const Span home = spans[tile.span];
    const u32 kv_head = blockIdx.y, group = layout.heads / layout.kv_heads;
    const u32 row = home.own + tile.first;

    for (u32 at = threadIdx.x; at < WARPS * R * DIM; at += THREADS) {
        const u32 k = at / DIM, c = at % DIM;
        const bool real = k < tile.count && c < dim;
        keys[at] = real ? to_f32(qkv[layout.key(row + k, kv_head, dim) + c]) : 0.0f;
        values[at] = real ? to_f32(qkv[layout.value(row + k, kv_head, dim) + c]) : 0.0f;
    }
    float key_sums[R][PARTS], value_sums[R][PARTS];
#pragma unroll
    for (u32 r = 0; r < R; r++)
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) key_sums[r][i] = value_sums[r][i] = 0.0f;

    for (u32 of_span = tile.first_span; of_span < tile.last_span; of_span++) {
        const Span span = spans[of_span];
        // Positions of the tile's keys in this sequence: its own rows, or those it shares; `known` of them it has.
        const bool own = of_span == tile.span;
        if (!own && (row < span.shared || row >= span.shared + span.shared_len)) continue;
        const u32 base = own ? span.shared_len + tile.first : row - span.shared;
        const u32 known = own ? tile.count : min(tile.count, span.shared + span.shared_len - row);
        // Own rows whose queries may see them: from the first key's position on, and not beyond the last one's window.
        const u32 first_row = own ? tile.first : 0;
        const u64 beyond = layout.window == 0 ? ~0ull : u64(base) + known - 1 + layout.window;
        const u64 to_row = beyond > span.shared_len ? beyond - span.shared_len : 0;
        const u32 last_row = to_row < span.own_len ? u32(to_row) : span.own_len;
        for (u32 of_head = kv_head * group; of_head < (kv_head + 1) * group; of_head++) {
            for (u32 first = first_row; first < last_row; first += WARP) {
                __syncthreads();
                load_rows<DIM>(queries, first, last_row, dim,
                               [&](u32 q) { return qkv + layout.query(span.own + q, of_head, dim); });
                load_rows<DIM>(grads, first, last_row, dim, [&](u32 q) {
                    return grad + (u64(span.own + q) * layout.heads + of_head) * dim;
                });
                __syncthreads();
                float scores[R], products[R];
#pragma unroll
                for (u32 r = 0; r < R; r++) scores[r] = products[r] = 0.0f;
                add_dots<DIM>(keys + warp * R * DIM, queries + lane * (DIM + 1), scores);
                add_dots<DIM>(values + warp * R * DIM, grads + lane * (DIM + 1), products);
                const u32 q = first + lane;
                const u64 at = u64(span.own + q) * layout.heads + of_head;
                const float log_sum = q < last_row ? log_sums[at] : 0.0f;
                const float mean = q < last_row ? delta[at] : 0.0f;
#pragma unroll
                for (u32 r = 0; r < R; r++) {
                    const u32 k = warp * R + r;
                    float p, ds;
                    slopes(scores[r] * head.scale, products[r], log_sum, mean, head.softcap, p, ds);
                    const bool sees = q < last_row && k < known && layout.sees(span.shared_len + q, base + k);
                    probs[k * WARP + lane] = sees ? p : 0.0f;
                    weights[k * WARP + lane] = sees ? ds : 0.0f;
                }
                __syncwarp();
                add_rows<DIM>(weights + warp * R * WARP, queries, key_sums);
                add_rows<DIM>(probs + warp * R * WARP, grads, value_sums);
            }
        }
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        const u32 k = warp * R + r;
        if (k >= tile.count) continue;
        T* const of_key = qkv_grad + layout.key(row + k, kv_head, dim);
        T* const of_value = qkv_grad + layout.value(row + k, kv_head, dim);
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) {
            if (i * WARP + lane >= dim) continue;
            of_key[i * WARP + lane] = from_f32<T>(key_sums[r][i] * head.scale);
            of_value[i * WARP + lane] = from_f32<T>(value_sums[r][i]);
        }
    }
}

#define DELTA(T)                                                                                                  \
    KERNEL(128) void attention_delta_##T(const T* out, const T* grad, float* delta, u32 count, u32 dim) {         \
        attention_delta(out, grad, delta, count, dim);                                                            \
    }                                                                                                             \
    HOST_KERNEL(attention_delta_##T)

DELTA(float)
DELTA(bf16)

#define BACKWARD(T, DIM)                                                                                          \
    KERNEL_OF(128, 4)                                                                                             \
    void attention_queries_##T##_##DIM(const T* qkv, const T* grad, const float* log_sums, const float* delta,    \
                                       T* qkv_grad, const Span* spans, const Tile* tiles, u32 heads,              \
                                       u32 kv_heads, u32 dim, u32 window, float scale, float softcap) {           \
        attention_queries<T, DIM>(qkv, grad, log_sums, delta, qkv_grad, spans, tiles,                             \
                                  Layout{heads, kv_heads, window}, Head{dim, scale, softcap});                    \
    }                                                                                                             \
    HOST_KERNEL(attention_queries_##T##_##DIM)                                                                    \
    KERNEL_OF(128, 4)                                                                                             \
    void attention_keys_##T##_##DIM(const T* qkv, const T* grad, const float* log_sums, const float* delta,       \
                                    T* qkv_grad, const Span* spans, const KeyTile* tiles, u32 heads,              \
                                    u32 kv_heads, u32 dim, u32 window, float scale, float softcap) {              \
        attention_keys<T, DIM>(qkv, grad, log_sums, delta, qkv_grad, spans, tiles,                                \
                               Layout{heads, kv_heads, window}, Head{dim, scale, softcap});                       \
    }                                                                                                             \
    HOST_KERNEL(attention_keys_##T##_##DIM)

EACH_WIDTH(BACKWARD)
