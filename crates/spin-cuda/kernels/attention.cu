// Attention over rows that share prompts, with the log-sum-exp of each row of scores, from which the backward pass
// restores the probabilities; crates/spin-model/src/cpu/attention/mod.rs.
#include "attend.cuh"
#include "spans.cuh"

/// Consecutive own rows of a span: from its `first` on, `count` of them.
struct Tile {
    u32 span, first, count;
};

template <typename T, u32 DIM>
struct RowsView {
    const T* qkv;
    T* out;
    float* log_sums;
    Span span;
    Tile tile;
    Layout layout;
    u32 head, kv_head, dim;

    __device__ u32 position(u32 q) const { return span.shared_len + tile.first + q; }
    __device__ u32 row(u32 q) const { return span.own + tile.first + q; }
    __device__ u32 count() const { return tile.count; }
    __device__ u32 first() const { return layout.first_key(position(0)); }
    __device__ u32 last() const { return position(tile.count); }
    __device__ const T* query(u32 q) const { return qkv + layout.query(row(q), head, dim); }
    __device__ const T* key(u32 k) const { return qkv + layout.key(row_of(span, k), kv_head, dim); }
    __device__ const T* value(u32 k) const { return qkv + layout.value(row_of(span, k), kv_head, dim); }
    __device__ bool sees(u32 q, u32 k) const { return layout.sees(position(q), k); }
    __device__ void put(u32 q, u32 lane, float best, float total, const float (&mixed)[DIM / WARP]) const {
        put_output<DIM>(out + (u64(row(q)) * layout.heads + head) * dim, lane, dim, total, mixed);
        if (lane == 0) log_sums[u64(row(q)) * layout.heads + head] = best + logf(total);
    }
};

/// out [rows, heads * dim] and log_sums [rows, heads]; grid (tiles, heads).
template <typename T, u32 DIM>
__device__ void attention_forward(const T* qkv, T* out, float* log_sums, const Span* spans, const Tile* tiles,
                                  u32 heads, u32 kv_heads, u32 dim, u32 window, float scale, float softcap) {
    const Tile tile = tiles[blockIdx.x];
    const u32 head = blockIdx.y;
    const Layout layout{heads, kv_heads, window};
    const RowsView<T, DIM> view{qkv,    out,  log_sums, spans[tile.span],           tile,
                                layout, head, head / (heads / kv_heads), dim};
    attend<DIM>(view, Head{dim, scale, softcap});
}

#define ATTENTION(T, DIM)                                                                                       \
    KERNEL_OF(128, 4)                                                                                           \
    void attention_forward_##T##_##DIM(const T* qkv, T* out, float* log_sums, const Span* spans,                \
                                       const Tile* tiles, u32 heads, u32 kv_heads, u32 dim, u32 window,         \
                                       float scale, float softcap) {                                            \
        attention_forward<T, DIM>(qkv, out, log_sums, spans, tiles, heads, kv_heads, dim, window, scale,        \
                                  softcap);                                                                     \
    }                                                                                                           \
    HOST_KERNEL(attention_forward_##T##_##DIM)

EACH_WIDTH(ATTENTION)
