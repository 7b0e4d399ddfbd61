// What kernels can do right and wrong, to test the host.
#include "common.cuh"

#define CASE(name) \
    KERNEL(64) void name(float* values, u64, float)

CASE(neighbours) {
    SHARED(float, numbers, 64);
    numbers[threadIdx.x] = float(threadIdx.x);
    __syncthreads();
    values[threadIdx.x] = numbers[(threadIdx.x + 1) % 64];
}
HOST_KERNEL(neighbours)

CASE(sums) { values[threadIdx.x] = block_sum(float(threadIdx.x)); }
HOST_KERNEL(sums)

CASE(one_leaves_early) {
    if (threadIdx.x == 7) return;
    values[threadIdx.x] = block_sum(1.0f);
}
HOST_KERNEL(one_leaves_early)

CASE(apart) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    values[threadIdx.x] = 0.0f;
}
HOST_KERNEL(apart)

CASE(shuffle_of_some) {
    if (threadIdx.x < 5) values[threadIdx.x] = warp_sum(1.0f);
    __syncthreads();
}
HOST_KERNEL(shuffle_of_some)

KERNEL(64) void writes_after(float*, u64, float) {
    SHARED(float, values, 64);
    values[threadIdx.x + 1] = 0.0f;
}
HOST_KERNEL(writes_after)

KERNEL(64) void writes_before(float*, u64, float) {
    SHARED(float, values, 64);
    values[int(threadIdx.x) - 1] = 0.0f;
}
HOST_KERNEL(writes_before)

CASE(reads_unwritten) {
    SHARED(float, numbers, 64);
    values[threadIdx.x] = numbers[threadIdx.x];
}
HOST_KERNEL(reads_unwritten)
