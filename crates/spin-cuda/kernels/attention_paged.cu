// Attention of new tokens of many sequences to keys and values that are kept in pages, for generation;
// crates/spin-model/src/cpu/cached.rs.
//
// A page has `page` positions of one layer, [page, kv_heads, dim] for keys and the same for values; tables[sequence, i]
// is the page of positions i * page on. Sequences have any lengths: nothing is padded, and what is computed for one
// depends on it alone. Its keys are cut into splits of a fixed number, each by a block, so that a long sequence fills
// the device; the splits' results are put together in their order. A row whose position is NONE is of no sequence: a
// captured graph has a fixed number of rows and splits, and those of no use return at once.
#include "attend.cuh"
#include "spans.cuh"

constexpr u32 NONE = 0xFFFFFFFFu;

/// The query heads of one key head, as the query vectors of a tile.
template <typename T, u32 DIM>
struct PagedView {
    const T *queries, *key_pages, *value_pages;
    const u32* table;
    float *outs, *sums;
    u32 from, to, members, page, kv_heads, kv_head, dim;

    __device__ const T* of(const T* pages, u32 k) const {
        return pages + ((u64(table[k / page]) * page + k % page) * kv_heads + kv_head) * dim;
    }
    __device__ u32 count() const { return members; }
    __device__ u32 first() const { return from; }
    __device__ u32 last() const { return to; }
    __device__ const T* query(u32 q) const { return queries + u64(q) * dim; }
    __device__ const T* key(u32 k) const { return of(key_pages, k); }
    __device__ const T* value(u32 k) const { return of(value_pages, k); }
    __device__ bool sees(u32, u32) const { return true; }
    __device__ void put(u32 q, u32 lane, float best, float total, const float (&mixed)[DIM / WARP]) const {
#pragma unroll
        for (u32 i = 0; i < DIM / WARP; i++)
            if (i * WARP + lane < dim) outs[u64(q) * dim + i * WARP + lane] = mixed[i];
        if (lane == 0) sums[2 * q] = best, sums[2 * q + 1] = total;
    }
};

/// Copies the keys and values of new rows of qkv, rotated, to their places; a block has a row.
template <typename T>
__device__ void cache_append(const T* qkv, const u32* sequences, const u32* positions, const u32* tables, T* key_pages,
                             T* value_pages, u32 heads, u32 kv_heads, u32 dim, u32 page, u32 table_len) {
    const u32 row = blockIdx.x, position = positions[row], width = kv_heads * dim;
    if (position == NONE) return;
    const u32 of_page = tables[u64(sequences[row]) * table_len + position / page];
    const u64 to = (u64(of_page) * page + position % page) * width;
    const T* const from = qkv + u64(row) * (heads + 2 * kv_heads) * dim + u64(heads) * dim;
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        key_pages[to + column] = from[column];
        value_pages[to + column] = from[width + column];
    }
}

/// Unnormalised outputs outs [splits, rows, heads, dim] with sums [splits, rows, heads, 2] (largest score, sum);
/// grid (rows, kv_heads * ceil(heads per key head / WARPS * ROWS), splits). Splits that the row does not reach are not
/// written, nor read by attention_paged_join.
template <typename T, u32 DIM>
__device__ void attention_paged(const T* qkv, const T* key_pages, const T* value_pages, const u32* sequences,
                                const u32* positions, const u32* tables, float* outs, float* sums, u32 rows, u32 heads,
                                u32 kv_heads, u32 dim, u32 window, u32 page, u32 table_len, u32 split, float scale,
                                float softcap) {
    constexpr u32 MANY = WARPS * ROWS<DIM>;
    const u32 row = blockIdx.x, position = positions[row], group = heads / kv_heads;
    if (position == NONE) return;
    const Layout layout{heads, kv_heads, window};
    // Splits begin at multiples of their length, whatever the window leaves of them.
    const u32 from = max(blockIdx.z * split, layout.first_key(position));
    const u32 to = min((blockIdx.z + 1) * split, position + 1);
    if (from >= to) return;
    const u32 kv_head = blockIdx.y % kv_heads, first = blockIdx.y / kv_heads * MANY;
    const u32 head = kv_head * group + first;
    const u64 at = (u64(blockIdx.z) * rows + row) * heads + head;
    const PagedView<T, DIM> view{qkv + layout.query(row, head, dim),
                                 key_pages,
                                 value_pages,
                                 tables + u64(sequences[row]) * table_len,
                                 outs + at * dim,
                                 sums + at * 2,
                                 from,
                                 to,
                                 min(MANY, group - first),
                                 page,
                                 kv_heads,
                                 kv_head,
                                 dim};
    attend<DIM>(view, Head{dim, scale, softcap});
}

/// out [rows, heads, dim] from the splits; a warp to a row and head, blocks of (32, 4).
template <typename T>
__device__ void attention_paged_join(const float* outs, const float* sums, const u32* positions, T* out, u32 rows,
                                     u32 heads, u32 dim, u32 window, u32 split) {
    const u32 at = blockIdx.x * blockDim.y + threadIdx.y;
    if (at >= rows * heads) return;
    const u32 position = positions[at / heads];
    if (position == NONE) return;
    const u32 first = Layout{heads, heads, window}.first_key(position) / split, last = position / split;
    float best = minus_infinity();
    for (u32 part = first; part <= last; part++) best = fmaxf(best, sums[(u64(part) * rows * heads + at) * 2]);
    float total = 0.0f;
    for (u32 part = first; part <= last; part++) {
        const float* own = sums + (u64(part) * rows * heads + at) * 2;
        total += own[1] * expf(own[0] - best);
    }
    for (u32 c = threadIdx.x; c < dim; c += WARP) {
        float sum = 0.0f;
        for (u32 part = first; part <= last; part++) {
            const u64 own = u64(part) * rows * heads + at;
            sum += outs[own * dim + c] * expf(sums[own * 2] - best);
        }
        out[u64(at) * dim + c] = from_f32<T>(sum / total);
    }
}

#define OF_TYPE(T)                                                                                                  \
    KERNEL(256)                                                                                                     \
    void cache_append_##T(const T* qkv, const u32* sequences, const u32* positions, const u32* tables,              \
                          T* key_pages, T* value_pages, u32 heads, u32 kv_heads, u32 dim, u32 page,                 \
                          u32 table_len) {                                                                          \
        cache_append(qkv, sequences, positions, tables, key_pages, value_pages, heads, kv_heads, dim, page,         \
                     table_len);                                                                                    \
    }                                                                                                               \
    HOST_KERNEL(cache_append_##T)                                                                                   \
    KERNEL(128)                                                                                                     \
    void attention_paged_join_##T(const float* outs, const float* sums, const u32* positions, T* out, u32 rows,     \
                                  u32 heads, u32 dim, u32 window, u32 split) {                                      \
        attention_paged_join(outs, sums, positions, out, rows, heads, dim, window, split);                          \
    }                                                                                                               \
    HOST_KERNEL(attention_paged_join_##T)

OF_TYPE(float)
OF_TYPE(bf16)

#define PAGED(T, DIM)                                                                                               \
    KERNEL_OF(128, 4)                                                                                               \
    void attention_paged_##T##_##DIM(const T* qkv, const T* key_pages, const T* value_pages,                        \
                                     const u32* sequences, const u32* positions, const u32* tables, float* outs,    \
                                     float* sums, u32 rows, u32 heads, u32 kv_heads, u32 dim, u32 window,           \
                                     u32 page, u32 table_len, u32 split, float scale, float softcap) {              \
        attention_paged<T, DIM>(qkv, key_pages, value_pages, sequences, positions, tables, outs, sums, rows,        \
                                heads, kv_heads, dim, window, page, table_len, split, scale, softcap);              \
    }                                                                                                               \
    HOST_KERNEL(attention_paged_##T##_##DIM)

EACH_WIDTH(PAGED)
