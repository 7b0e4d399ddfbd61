// Runs kernels on the CPU, to test their arithmetic without a GPU; no part of any program.
//
// Each thread of a block is a fiber of one operating system's thread. A fiber runs until a barrier of its block or
// warp (every shuffle is one) and goes on when all have come there: threads are in lockstep at barriers, and results
// do not depend on chance. Blocks run one after the other. It is an error, told with file and line,
//   - if threads wait at different barriers, or some have ended while others wait,
//   - if a block is not of whole warps,
//   - if something was written before or after an array of shared memory.
// Shared memory is filled with NaN before each block, so that reading what nobody wrote is seen in the results.
#pragma once
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <functional>
#include <math.h>
#include <memory>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};

namespace spin_host {

enum class State { Ready, AtBlock, AtWarp, Done };

constexpr unsigned LANES = 32;
constexpr size_t STACK = 128 << 10;
constexpr size_t CANARY = 64;
constexpr unsigned char POISON = 0xFF;

struct Fiber {
    uint3 index{};
    unsigned number = 0;
    State state = State::Ready;
    const char* file = "";
    int line = 0;
    bool begun = false;
    unsigned exchanges = 0;
    ucontext_t context;
    jmp_buf place;
    std::unique_ptr<char[]> stack;
};

/// What lanes give each other. Two in turns: a lane can be ahead of another by one exchange at most.
struct Slots {
    unsigned long long words[2][LANES];
};

/// One array of shared memory.
struct Array {
    const void* tag;
    const char* name;
    std::vector<unsigned char> bytes;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Slots> slots;
inline std::vector<std::unique_ptr<Array>> arrays;
inline Fiber* now = nullptr;
inline unsigned threads = 0;
inline uint3 grid_size, block_size, block;
inline size_t dynamic_bytes = 0;
inline std::function<void()> kernel;
inline jmp_buf scheduler;
inline std::string failure;

__attribute__((noinline)) inline void to_scheduler() {
    if (_setjmp(now->place) == 0) _longjmp(scheduler, 1);
}

/// A fiber's life: one thread of one block after the other.
inline void life() {
    for (;;) {
        kernel();
        now->state = State::Done;
        to_scheduler();
    }
}

__attribute__((noinline)) inline void resume(Fiber* fiber) {
    now = fiber;
    if (_setjmp(scheduler) != 0) return;
    if (fiber->begun) _longjmp(fiber->place, 1);
    fiber->begun = true;
    setcontext(&fiber->context);
}

inline void wait(State at, const char* file, int line) {
    now->state = at;
    now->file = file;
    now->line = line;
    to_scheduler();
}

inline std::string place_of(const Fiber& fiber) {
    const std::string where = fiber.state == State::Done ? "has ended" : std::string("waits at ") + fiber.file + ":" + std::to_string(fiber.line);
    return "thread " + std::to_string(fiber.number) + " " + where;
}

/// Lets threads first..last go on if all wait at one barrier; whether they do.
inline bool release(State at, unsigned first, unsigned last) {
    for (unsigned i = first; i < last; i++)
        if (fibers[i]->state != at) return false;
    for (unsigned i = first; i < last; i++) {
        if (fibers[i]->line != fibers[first]->line || std::strcmp(fibers[i]->file, fibers[first]->file) != 0) {
            failure = "different barriers: " + place_of(*fibers[first]) + ", " + place_of(*fibers[i]);
            return false;
        }
        fibers[i]->state = State::Ready;
    }
    return true;
}

inline void check_arrays() {
    for (auto& array : arrays) {
        const auto& bytes = array->bytes;
        for (size_t i = 0; i < CANARY; i++)
            if (bytes[i] != POISON || bytes[bytes.size() - 1 - i] != POISON) {
                failure = std::string("shared memory was written outside of ") + array->name;
                return;
            }
    }
}

/// Runs a block to its end, or to a failure.
inline void run_block() {
    arrays.clear();
    for (unsigned i = 0; i < threads; i++) fibers[i]->state = State::Ready;
    for (;;) {
        bool ran = false;
        unsigned done = 0;
        for (unsigned first = 0; first < threads; first += LANES) {
            // A warp goes as far as it can, then the next.
            do {
                for (unsigned i = first; i < first + LANES; i++)
                    if (fibers[i]->state == State::Ready) {
                        resume(fibers[i].get());
                        ran = true;
                    }
            } while (release(State::AtWarp, first, first + LANES));
            for (unsigned i = first; i < first + LANES; i++) done += fibers[i]->state == State::Done;
        }
        if (!failure.empty()) return;
        if (done == threads) break;
        if (release(State::AtBlock, 0, threads)) continue;
        if (!failure.empty()) return;
        if (!ran) {
            failure = "threads are apart: ";
            const Fiber* one = fibers[0].get();
            for (unsigned i = 1; i < threads; i++)
                if (fibers[i]->state != one->state || fibers[i]->line != one->line) {
                    failure += place_of(*one) + ", " + place_of(*fibers[i]);
                    return;
                }
            failure += place_of(*one);
            return;
        }
    }
    check_arrays();
}

/// This block's array of a place in the source.
inline void* shared(const void* tag, const char* name, size_t bytes) {
    for (auto& array : arrays)
        if (array->tag == tag) return array->bytes.data() + CANARY;
    auto array = std::make_unique<Array>();
    array->tag = tag;
    array->name = name;
    array->bytes.assign(bytes + 2 * CANARY, POISON);
    arrays.push_back(std::move(array));
    return arrays.back()->bytes.data() + CANARY;
}

/// Gives the other lanes a word, waits for all of them, and reads theirs.
inline const unsigned long long* exchange(unsigned long long word, const char* file, int line) {
    auto& turn = slots[now->number / LANES].words[now->exchanges++ % 2];
    turn[now->number % LANES] = word;
    wait(State::AtWarp, file, line);
    return turn;
}

template <typename T>
T shuffle(T value, unsigned lane, const char* file, int line) {
    static_assert(sizeof(T) <= 8, "a word");
    unsigned long long word = 0;
    std::memcpy(&word, &value, sizeof(T));
    word = exchange(word, file, line)[lane];
    std::memcpy(&value, &word, sizeof(T));
    return value;
}

inline bool any(bool value, const char* file, int line) {
    const auto* words = exchange(value, file, line);
    for (unsigned lane = 0; lane < LANES; lane++)
        if (words[lane]) return true;
    return false;
}

struct Entry {
    const char* name;
    void (*call)(void**);
};

inline std::vector<Entry>& entries() {
    static std::vector<Entry> all;
    return all;
}

template <auto F>
struct Invoke;

template <typename... A, void (*F)(A...)>
struct Invoke<F> {
    template <size_t... I>
    static void with(void** args, std::index_sequence<I...>) {
        F(*static_cast<A*>(args[I])...);
    }
    static void call(void** args) { with(args, std::index_sequence_for<A...>{}); }
};

struct Register {
    Register(const char* name, void (*call)(void**)) { entries().push_back({name, call}); }
};

inline const char* launch(const char* name, const unsigned* grid, const unsigned* block_of, unsigned bytes, void** args) {
    failure.clear();
    const Entry* entry = nullptr;
    for (const auto& each : entries())
        if (std::strcmp(each.name, name) == 0) entry = &each;
    threads = block_of[0] * block_of[1] * block_of[2];
    if (entry == nullptr) {
        failure = std::string("there is no kernel ") + name;
    } else if (threads == 0 || threads % LANES != 0 || threads > 1024) {
        failure = "a block of " + std::to_string(threads) + " threads is not of whole warps, or too large";
    }
    if (!failure.empty()) return failure.c_str();
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block_of[0], block_of[1], block_of[2]};
    dynamic_bytes = bytes;
    kernel = [=] { entry->call(args); };
    slots.resize(threads / LANES);
    while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = *fibers[i];
        fiber.number = i;
        fiber.index = {i % block_of[0], i / block_of[0] % block_of[1], i / (block_of[0] * block_of[1])};
        fiber.exchanges = 0;
        if (!fiber.stack) {
            fiber.stack = std::make_unique<char[]>(STACK);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, life, 0);
        }
    }
    for (block.z = 0; block.z < grid[2]; block.z++)
        for (block.y = 0; block.y < grid[1]; block.y++)
            for (block.x = 0; block.x < grid[0]; block.x++) {
                run_block();
                if (!failure.empty()) {
                    failure += std::string(" (") + name + ", block " + std::to_string(block.x) + " " + std::to_string(block.y) + " " + std::to_string(block.z) + ")";
                    // Those that wait would go on where they are.
                    fibers.clear();
                    return failure.c_str();
                }
            }
    return nullptr;
}

}  // namespace spin_host

#define threadIdx (spin_host::now->index)
#define blockIdx (spin_host::block)
#define blockDim (spin_host::block_size)
#define gridDim (spin_host::grid_size)

#define __syncthreads() spin_host::wait(spin_host::State::AtBlock, __FILE__, __LINE__)
#define __syncwarp() spin_host::wait(spin_host::State::AtWarp, __FILE__, __LINE__)
#define __shfl_sync(mask, value, lane) spin_host::shuffle(value, (lane) % 32, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, other) \
    spin_host::shuffle(value, (spin_host::now->number % 32) ^ (other), __FILE__, __LINE__)
#define __any_sync(mask, value) spin_host::any(value, __FILE__, __LINE__)

#define SHARED(type, name, count)  \
    static char name##_tag; \
    type* const name = static_cast<type*>(spin_host::shared(&name##_tag, #name, sizeof(type) * (count)))
#define DYNAMIC_SHARED(name)                                            \
    static char name##_tag;                                   \
    float* const name = static_cast<float*>(spin_host::shared(&name##_tag, "dynamic memory", spin_host::dynamic_bytes))
#define HOST_KERNEL(name) \
    static const spin_host::Register name##_register(#name, &spin_host::Invoke<&name>::call);

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
// Rounded after each operation: built without contraction, as the kernels that ask for it are on a device.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
template <typename T>
T atomicAdd(T* to, T value) {
    const T before = *to;
    *to += value;
    return before;
}

/// Runs a kernel by its name; null, or what went wrong.
extern "C" __attribute__((visibility("default"), used)) inline const char* spin_launch(
    const char* name, const unsigned* grid, const unsigned* block, unsigned shared, void** args) {
    return spin_host::launch(name, grid, block, shared, args);
}

/// The name of the kernel at a number, or null.
extern "C" __attribute__((visibility("default"), used)) inline const char* spin_kernel(unsigned number) {
    return number < spin_host::entries().size() ? spin_host::entries()[number].name : nullptr;
}
