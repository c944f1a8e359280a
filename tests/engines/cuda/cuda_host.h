// Runs CUDA kernels on one CPU thread, for tests: included in front of the kernels' source, in the place of ptx.cuh.
//
// Every CUDA thread is a coroutine. One runs until it needs the others: at __syncthreads all threads of the block must arrive, at
// a shuffle or a matrix multiply all of its warp. `order` decides who goes first, so a missing barrier shows as a difference.
// Copies by copy_four happen as late as they may, in wait_copies, and shared memory starts as NaN: who reads too early sees it.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("cuda_shared")))

typedef unsigned int u32;

using std::max;
using std::min;

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uchar4 { unsigned char x, y, z, w; };
struct Index { int x, y; };

extern "C" char __start_cuda_shared[], __stop_cuda_shared[];

namespace host {

enum { THREADS_OF_A_BLOCK = 256, STACK = 1 << 16 };
enum { ONE_WARP = 2 };  // the order in which a warp goes as far as it can before the next one does anything
enum Wait { RUNNING, AT_BARRIER, AT_SHUFFLE, AT_MULTIPLY, DONE };

struct Copy { float* to; const float* from; bool inside; };

struct Thread {
    ucontext_t context;  // to begin with
    jmp_buf place;       // to go on from: unlike swapcontext this asks nothing of the kernel
    bool begun;
    Wait wait;
    float given, received;  // of a shuffle
    int distance;
    float a[4], b[2], c[4];  // of a matrix multiply
    std::vector<std::vector<Copy>> copies;  // groups, the last one still open
};

ucontext_t ending;
jmp_buf scheduler;
Thread threads[THREADS_OF_A_BLOCK];
std::vector<char> stacks(THREADS_OF_A_BLOCK* STACK);
int current, order = 0;
void (*body)(void*);
void* argument;

inline void wait(Wait what) {
    int self = current;
    threads[self].wait = what;
    if (!_setjmp(threads[self].place)) _longjmp(scheduler, 1);
    current = self;
}

inline void enter() {
    int self = current;
    body(argument);
    threads[self].wait = DONE;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) void resume(Thread& thread) {
    if (_setjmp(scheduler)) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.context);
}

inline void shuffle(Thread* warp) {
    for (int lane = 0; lane < 32; ++lane) warp[lane].received = warp[lane ^ warp[lane].distance].given;
}

// mma.m16n8k8: the places of the fragments are those of the PTX manual. Sums are cut off, as by the tensor cores, not rounded.
__attribute__((optimize("O3"))) inline void multiply(Thread* warp) {
    double a[16][8], b[8][8], sums[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        int group = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][t + i / 2 * 4] = warp[lane].a[i];
        for (int i = 0; i < 2; ++i) b[t + 4 * i][group] = warp[lane].b[i];
        for (int i = 0; i < 4; ++i) sums[group + i / 2 * 8][t * 2 + i % 2] = warp[lane].c[i];
    }
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 8; ++k)
            for (int column = 0; column < 8; ++column) sums[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            double sum = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
            float nearest = (float)sum;
            warp[lane].c[i] = std::fabs(nearest) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
        }
}

// Lets a warp, or the block, go on when all of its threads that are still there wait for the same thing.
inline bool release(int first, int count, Wait what, void (*together)(Thread*)) {
    int waiting = 0, done = 0;
    for (int i = first; i < first + count; ++i) {
        waiting += threads[i].wait == what;
        done += threads[i].wait == DONE;
    }
    if (waiting == 0 || waiting + done < count) return false;
    if (together && done) {
        std::fprintf(stderr, "a warp's threads have left before a shuffle or a multiply\n");
        std::abort();
    }
    if (together) together(threads + first);
    for (int i = first; i < first + count; ++i)
        if (threads[i].wait == what) threads[i].wait = RUNNING;
    return true;
}

inline void run_block() {
    for (float* x = (float*)__start_cuda_shared; x < (float*)__stop_cuda_shared; ++x) *x = NAN;
    for (int i = 0; i < THREADS_OF_A_BLOCK; ++i) {
        Thread& thread = threads[i];
        thread.wait = RUNNING;
        thread.copies.assign(1, {});
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = &stacks[(size_t)i * STACK];
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = &ending;
        thread.begun = false;
        makecontext(&thread.context, enter, 0);
    }
    for (;;) {
        bool progress = false;
        for (int n = 0; n < THREADS_OF_A_BLOCK; ++n) {
            if (order == ONE_WARP && n % 32 == 0 && progress) break;
            int i = order == 0 ? n : order <= ONE_WARP ? THREADS_OF_A_BLOCK - 1 - n : (n * 89 + order) % THREADS_OF_A_BLOCK;
            if (threads[i].wait != RUNNING) continue;
            current = i;
            resume(threads[i]);
            progress = true;
        }
        for (int first = 0; first < THREADS_OF_A_BLOCK; first += 32) {
            progress |= release(first, 32, AT_SHUFFLE, shuffle);
            progress |= release(first, 32, AT_MULTIPLY, multiply);
        }
        progress |= release(0, THREADS_OF_A_BLOCK, AT_BARRIER, nullptr);
        bool all_done = true;
        for (Thread& thread : threads) all_done &= thread.wait == DONE;
        if (all_done) return;
        if (!progress) {
            std::fprintf(stderr, "deadlock: threads wait for others that never come\n");
            std::abort();
        }
    }
}

}  // namespace host

// --- what CUDA gives a kernel ------------------------------------------------------------------------------------------

struct ThreadIndex {
    struct X { operator int() const { return host::current; } } x;
};
static ThreadIndex threadIdx;
static Index blockIdx, gridDim;

inline void __syncthreads() { host::wait(host::AT_BARRIER); }

inline float __shfl_xor_sync(u32, float x, int distance) {
    host::Thread& self = host::threads[host::current];
    self.given = x;
    self.distance = distance;
    host::wait(host::AT_SHUFFLE);
    return self.received;
}

// --- what ptx.cuh gives --------------------------------------------------------------------------------------------

inline void copy_four(float* to, const float* from, bool inside) {
    if ((uintptr_t)from % 16 || (uintptr_t)to % 16) {
        std::fprintf(stderr, "a copy that is not on a 16-byte boundary\n");
        std::abort();
    }
    host::threads[host::current].copies.back().push_back({to, from, inside});
}

inline void end_copies() { host::threads[host::current].copies.emplace_back(); }

template <int PENDING>
inline void wait_copies() {
    std::vector<std::vector<host::Copy>>& groups = host::threads[host::current].copies;
    while ((int)groups.size() - 1 > PENDING) {
        for (const host::Copy& copy : groups.front())
            for (int i = 0; i < 4; ++i) copy.to[i] = copy.inside ? copy.from[i] : 0.0f;
        groups.erase(groups.begin());
    }
}

inline float round_to_tf32(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0x1000u) & 0xFFFFE000u;  // the nearest, ties away from 0, with 10 bits of fraction
    std::memcpy(&x, &bits, 4);
    return x;
}

inline void split(float x, float& big, float& small) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0x1000u) & 0xFFFFE000u;
    std::memcpy(&big, &bits, 4);
    small = x - big;
    std::memcpy(&bits, &small, 4);
    bits &= 0xFFFFE000u;
    std::memcpy(&small, &bits, 4);
}

inline void mma_tf32(float c[4], const float a[4], const float b[2]) {
    host::Thread& self = host::threads[host::current];
    std::memcpy(self.a, a, sizeof(self.a));
    std::memcpy(self.b, b, sizeof(self.b));
    std::memcpy(self.c, c, sizeof(self.c));
    host::wait(host::AT_MULTIPLY);
    std::memcpy(c, self.c, sizeof(self.c));
}

// --- how Python starts a kernel: arguments are pointers to the values --------------------------------------------------

template <class... Types>
struct Call {
    void (*kernel)(Types...);
    void** values;
    template <size_t... I>
    void with(std::index_sequence<I...>) { kernel(*(typename std::remove_const<Types>::type*)values[I]...); }
    static void run(void* self) { ((Call*)self)->with(std::index_sequence_for<Types...>()); }
};

template <class... Types>
void launch(void (*kernel)(Types...), int blocks_x, int blocks_y, void** values) {
    Call<Types...> call{kernel, values};
    host::body = Call<Types...>::run;
    host::argument = &call;
    gridDim = {blocks_x, blocks_y};
    for (blockIdx.y = 0; blockIdx.y < blocks_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < blocks_x; ++blockIdx.x) host::run_block();
}

extern "C" void set_order(int order) { host::order = order; }
