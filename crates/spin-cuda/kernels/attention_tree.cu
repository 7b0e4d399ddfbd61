// Attention over a tree of tokens, for scoring: rows in depth-first order, where row r sees row j if j <= r < end(j),
// behind a path of rows computed earlier whose keys and values are kept; crates/spin-model/src/cpu/{tree,branches}.rs.
#include "attend.cuh"
#include "spans.cuh"

/// Keys that some query of a tile sees: positions of the path, or rows.
struct Stretch {
    u32 first, count, cached;
};

/// Query rows in order, numbers queries[first..first + count] of the rows wanted, and their stretches. `keys` is how
/// many these have together.
struct TreeTile {
    u32 first, count, first_stretch, last_stretch, keys;
};

template <typename T, u32 DIM>
struct TreeView {
    const T *queries, *rows, *path_keys, *path_values;
    T* out;
    const u32 *wanted, *positions, *ends, *path_ends;
    const Stretch* stretches;
    TreeTile tile;
    u32 heads, kv_heads, head, kv_head, dim, window;
    u64 query_stride, row_stride, key_column, value_column;

    /// The key at a number among those of the stretches; there are few.
    __device__ Stretch key_at(u32 k) const {
        u32 stretch = tile.first_stretch;
        while (k >= stretches[stretch].count) k -= stretches[stretch++].count;
        return Stretch{stretches[stretch].first + k, 1, stretches[stretch].cached};
    }
    __device__ const T* of(u32 k, const T* path, u64 column) const {
        const Stretch key = key_at(k);
        return key.cached ? path + (u64(key.first) * kv_heads + kv_head) * dim
                          : rows + key.first * row_stride + column + u64(kv_head) * dim;
    }
    __device__ u32 count() const { return tile.count; }
    __device__ u32 first() const { return 0; }
    __device__ u32 last() const { return tile.keys; }
    __device__ const T* query(u32 q) const { return queries + (tile.first + q) * query_stride + u64(head) * dim; }
    __device__ const T* key(u32 k) const { return of(k, path_keys, key_column); }
    __device__ const T* value(u32 k) const { return of(k, path_values, value_column); }
    __device__ bool sees(u32 q, u32 k) const {
        const Stretch key = key_at(k);
        const u32 row = wanted[tile.first + q];
        const u32 position = key.cached ? key.first : positions[key.first];
        const bool below = key.cached ? row < path_ends[key.first] : key.first <= row && row < ends[key.first];
        return below && (window == 0 || position + window > positions[row]);
    }
    __device__ void put(u32 q, u32 lane, float, float total, const float (&mixed)[DIM / WARP]) const {
        put_output<DIM>(out + (u64(tile.first + q) * heads + head) * dim, lane, dim, total, mixed);
    }
};

/// out [wanted rows, heads * dim]; grid (tiles, heads). Keys and values of the rows of the tree lie in `rows`, from
/// key_column and value_column on; those of the path in [positions, kv_heads, dim] each.
template <typename T, u32 DIM>
__device__ void attention_tree(const T* queries, const T* rows, const T* path_keys, const T* path_values, T* out,
                               const u32* wanted, const u32* positions, const u32* ends, const u32* path_ends,
                               const Stretch* stretches, const TreeTile* tiles, u32 heads, u32 kv_heads, u32 dim,
                               u32 window, u64 query_stride, u64 row_stride, u64 key_column, u64 value_column,
                               float scale, float softcap) {
    const u32 head = blockIdx.y;
    const TreeView<T, DIM> view{queries,      rows,       path_keys,  path_values, out,
                                wanted,       positions,  ends,       path_ends,   stretches,
                                tiles[blockIdx.x], heads, kv_heads,   head,        head / (heads / kv_heads),
                                dim,          window,     query_stride, row_stride, key_column,
                                value_column};
    attend<DIM>(view, Head{dim, scale, softcap});
}

#define TREE(T, DIM)                                                                                              \
    KERNEL_OF(128, 4)                                                                                             \
    void attention_tree_##T##_##DIM(const T* queries, const T* rows, const T* path_keys, const T* path_values,    \
                                    T* out, const u32* wanted, const u32* positions, const u32* ends,             \
                                    const u32* path_ends, const Stretch* stretches, const TreeTile* tiles,        \
                                    u32 heads, u32 kv_heads, u32 dim, u32 window, u64 query_stride,               \
                                    u64 row_stride, u64 key_column, u64 value_column, float scale,                \
                                    float softcap) {                                                              \
        attention_tree<T, DIM>(queries, rows, path_keys, path_values, out, wanted, positions, ends, path_ends,    \
                               stretches, tiles, heads, kv_heads, dim, window, query_stride, row_stride,          \
                               key_column, value_column, scale, softcap);                                         \
    }                                                                                                             \
    HOST_KERNEL(attention_tree_##T##_##DIM)

EACH_WIDTH(TREE)
