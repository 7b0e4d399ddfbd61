// What all kernels share: types, reductions in a fixed order, reads of 16 bytes, counter-based noise.
//
// The source is CUDA C++ for nvcc and NVRTC, which needs no header of the toolkit, and plain C++ with
// host.hpp where SPIN_HOST is defined. Sums are f32 whatever the type of the data, unless a kernel says f64.
#pragma once
#ifdef SPIN_HOST
#include "host.hpp"
#else
/// `type name[count]`, shared by the threads of a block.
#define SHARED(type, name, count) __shared__ type name[count]
/// Shared memory of the size that the launch gives.
#define DYNAMIC_SHARED(name)          \
    extern __shared__ float4 spin_dynamic[]; \
    float* const name = reinterpret_cast<float*>(spin_dynamic)
/// Makes a kernel known to the host; nothing on a device.
#define HOST_KERNEL(name)
#endif

/// A kernel: `KERNEL(threads) void name(...) { ... }`, for blocks of at most so many threads.
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads)

/// The same, where `blocks` are to fit a multiprocessor and no more need to: the compiler, asked for nothing, spills
/// registers to fit others.
#define KERNEL_OF(threads, blocks) extern "C" __global__ __launch_bounds__(threads, blocks)

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xFFFFFFFFu;

/// The upper half of an f32. An own type, so that no header is needed and device and host round by the same integers.
struct bf16 {
    u16 bits;
};

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

__device__ inline float to_f32(float value) { return value; }

__device__ inline float to_f32(bf16 value) { return __uint_as_float(u32(value.bits) << 16); }

template <typename T>
__device__ T from_f32(float value);

template <>
__device__ inline float from_f32<float>(float value) {
    return value;
}

/// To nearest, ties to even; a NaN stays one.
template <>
__device__ inline bf16 from_f32<bf16>(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return bf16{u16((bits >> 16) | 0x0040u)};
    return bf16{u16((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

// ---- Numbers side by side ----

/// Numbers that a thread reads at once, as a constant of the type: the loops below pass it to lambdas.
template <u32 N>
struct Count {
    static constexpr u32 N_ = N;
    __device__ constexpr operator u32() const { return N; }
};

/// Whether N numbers of T can be read at once from here on: 16 bytes, or all of them if they are fewer.
template <u32 N, typename T>
__device__ bool is_aligned(const T* at) {
    constexpr u64 bytes = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
    return reinterpret_cast<u64>(at) % bytes == 0;
}

/// Reads N numbers, which lie as is_aligned says if N > 1.
template <u32 N, typename T>
__device__ void load(const T* from, float (&to)[N]) {
    if constexpr (N == 1) {
        to[0] = to_f32(*from);
    } else if constexpr (sizeof(T) == 4) {
        static_assert(N % 4 == 0, "whole 16 bytes");
#pragma unroll
        for (u32 i = 0; i < N; i += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + i);
            to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
        }
    } else if constexpr (N == 4) {
        const uint2 two = *reinterpret_cast<const uint2*>(from);
        to[0] = __uint_as_float(two.x << 16), to[1] = __uint_as_float(two.x & 0xFFFF0000u);
        to[2] = __uint_as_float(two.y << 16), to[3] = __uint_as_float(two.y & 0xFFFF0000u);
    } else {
        static_assert(N == 8, "16 bytes");
        const uint4 four = *reinterpret_cast<const uint4*>(from);
        const u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            to[2 * i] = __uint_as_float(words[i] << 16);
            to[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
        }
    }
}

__device__ inline u32 two_bf16(float low, float high) {
    return u32(from_f32<bf16>(low).bits) | u32(from_f32<bf16>(high).bits) << 16;
}

/// Writes N numbers; the inverse of load.
template <u32 N, typename T>
__device__ void store(T* to, const float (&from)[N]) {
    if constexpr (N == 1) {
        *to = from_f32<T>(from[0]);
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (u32 i = 0; i < N; i += 4) {
            *reinterpret_cast<float4*>(to + i) = float4{from[i], from[i + 1], from[i + 2], from[i + 3]};
        }
    } else if constexpr (N == 4) {
        *reinterpret_cast<uint2*>(to) = uint2{two_bf16(from[0], from[1]), two_bf16(from[2], from[3])};
    } else {
        static_assert(N == 8, "16 bytes");
        *reinterpret_cast<uint4*>(to) = uint4{two_bf16(from[0], from[1]), two_bf16(from[2], from[3]),
                                              two_bf16(from[4], from[5]), two_bf16(from[6], from[7])};
    }
}

/// Calls visit(Count<n>, index) for the numbers 0..count, n = N at a time where they are aligned and one by one at
/// the end; this thread takes every `stride`-th part from `first` on.
template <u32 N, typename F>
__device__ void each(u64 count, u64 first, u64 stride, bool aligned, F visit) {
    const u64 packs = aligned ? count / N : 0;
    for (u64 pack = first; pack < packs; pack += stride) visit(Count<N>{}, pack * N);
    for (u64 at = packs * N + first; at < count; at += stride) visit(Count<1>{}, at);
}

/// The same for all threads of a grid.
template <u32 N, typename F>
__device__ void each_of_grid(u64 count, bool aligned, F visit) {
    each<N>(count, u64(blockIdx.x) * blockDim.x + threadIdx.x, u64(gridDim.x) * blockDim.x, aligned, visit);
}

// ---- Reductions: every lane and thread gets the same bits, whatever the order threads run in ----

template <typename T>
__device__ T warp_sum(T value) {
#pragma unroll
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
    for (u32 offset = WARP / 2; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

__device__ inline u32 thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }

__device__ inline u32 threads_of_block() { return blockDim.x * blockDim.y; }

/// Sums over a block of whole warps: the warps' sums are added in their order. All threads have to call it.
template <typename T>
__device__ T block_sum(T value) {
    SHARED(T, sums, WARP);
    value = warp_sum(value);
    const u32 thread = thread_of_block();
    __syncthreads();  // An earlier call may still be reading.
    if (thread % WARP == 0) sums[thread / WARP] = value;
    __syncthreads();
    T sum = sums[0];
    for (u32 warp = 1; warp < threads_of_block() / WARP; warp++) sum += sums[warp];
    return sum;
}

/// The largest value of a block. All threads have to call it.
__device__ inline float block_max(float value) {
    SHARED(float, largest, WARP);
    value = warp_max(value);
    const u32 thread = thread_of_block();
    __syncthreads();
    if (thread % WARP == 0) largest[thread / WARP] = value;
    __syncthreads();
    float most = largest[0];
    for (u32 warp = 1; warp < threads_of_block() / WARP; warp++) most = fmaxf(most, largest[warp]);
    return most;
}

// ---- Formulas that several kernels use ----

/// cap tanh(x / cap), or x where there is no cap (0).
__device__ inline float soft_cap(float x, float cap) { return cap > 0.0f ? cap * tanhf(x / cap) : x; }

/// The derivative of soft_cap, from its result.
__device__ inline float soft_cap_slope(float capped, float cap) {
    const float bent = capped / cap;
    return cap > 0.0f ? 1.0f - bent * bent : 1.0f;
}

// ---- Counter-based noise: crates/spin-noise, by the same integers ----

constexpr u64 WEYL = 0x9E3779B97F4A7C15ull;

/// SplitMix64's finaliser.
__device__ inline u64 finalize(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/// The next number of SplitMix64 in a state.
__device__ inline u64 mix(u64 state) { return finalize(state + WEYL); }

/// The number at `index` of the sequence that begins in `state`.
__device__ inline u64 nth(u64 state, u64 index) { return finalize(state + (index + 1) * WEYL); }
