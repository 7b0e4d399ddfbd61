// Rows of a batch whose sequences share prompts: crates/spin-model/src/batch.rs, RowPlan.
#pragma once
#include "common.cuh"

/// A sequence: rows computed for another (its prompt), then its own. Keys and values come from both, queries from its
/// own. Position p is row shared + p while p < shared_len, and row own + p - shared_len after that.
struct Span {
    u32 shared, shared_len, own, own_len;
};

/// Rows of queries, keys and values: all query heads, then all key heads, then all value heads, already rotated. The
/// gradient has the same layout.
struct Layout {
    u32 heads, kv_heads, window;  // window 0: none

    __device__ u64 width(u32 dim) const { return u64(heads + 2 * kv_heads) * dim; }
    __device__ u64 query(u32 row, u32 head, u32 dim) const { return row * width(dim) + u64(head) * dim; }
    __device__ u64 key(u32 row, u32 head, u32 dim) const { return query(row, heads + head, dim); }
    __device__ u64 value(u32 row, u32 head, u32 dim) const { return query(row, heads + kv_heads + head, dim); }
    /// Whether the query at one position sees the key at another.
    __device__ bool sees(u32 query, u32 key) const { return key <= query && (window == 0 || key + window > query); }
    /// The first key that the query at a position sees.
    __device__ u32 first_key(u32 position) const {
        return window == 0 || position + 1 < window ? 0 : position + 1 - window;
    }
};

__device__ inline u32 row_of(const Span& span, u32 position) {
    return position < span.shared_len ? span.shared + position : span.own + position - span.shared_len;
}
