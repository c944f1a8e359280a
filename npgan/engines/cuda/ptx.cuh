// What only the hardware can do, each behind one function: copies that go on by themselves, and the tensor cores.
// Needs compute capability 8.0; older GPUs copy at once and multiply with plain FMAs (PASSES 0).
// tests/ptx runs what NVRTC makes of them.

// Four floats into shared memory, or four zeros unless `inside`: then nothing is read, so `from` may point anywhere. Both addresses
// are on 16-byte boundaries. The copy is done for sure only after wait_copies and a __syncthreads.
__device__ inline void copy_four(float* to, const float* from, bool inside) {
#if __CUDA_ARCH__ >= 800
    u32 address = (u32)__cvta_generic_to_shared(to);
    int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
#else
    *reinterpret_cast<float4*>(to) = inside ? *reinterpret_cast<const float4*>(from) : float4{0.0f, 0.0f, 0.0f, 0.0f};
#endif
}

// Ends a group of copies: what copy_four started since the last one.
__device__ inline void end_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the newest PENDING groups of this thread are under way.
template <int PENDING>
__device__ inline void wait_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Asks for the 128 bytes around an address to come into the L2 cache, and waits for nothing.
__device__ inline void prefetch(const float* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

// Blocks of a cluster, from compute capability 9.0 on: a block's number in its cluster, a barrier of all their threads, and four
// floats of another block's shared memory, from the place that `at` is in this block's. No block may leave while others read it.
#if __CUDA_ARCH__ >= 900
__device__ inline int cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ inline float4 load_of_block(const float* at, int rank) {
    u32 address;
    float4 x;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"((u32)__cvta_generic_to_shared(at)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
}
#else
__device__ inline int cluster_rank() { return 0; }
__device__ inline void cluster_sync() { __syncthreads(); }
__device__ inline float4 load_of_block(const float* at, int) { return *reinterpret_cast<const float4*>(at); }
#endif

// Programmatic dependent launch, likewise, with -DDEPENDENT=1: a kernel may begin while the one before it on its stream still runs.
// What that one writes may be read, and what it reads written, after `wait_for_kernel_before`; a kernel that has begun in the usual
// way does not wait there. What had been written when the first kernel of such a chain began may be read at once. `let_next_kernel_begin` says when the next one may: as soon as all blocks have come so far.
__device__ inline void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900 && DEPENDENT
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900 && DEPENDENT
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The nearest number with TF32's 10 bits of fraction, ties away from 0.
__device__ inline float round_to_tf32(float x) {
#if __CUDA_ARCH__ >= 800
    u32 rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
    return __uint_as_float(rounded);
#else
    return x;
#endif
}

// x = big + small, both of them TF32: big is the nearest to x, small what that leaves, cut off to 10 bits. Where x is infinite or
// NaN, small is NaN, and so are the products: infinity becomes NaN. Of big that may be lost, as the rounding is by integers, two
// instructions in the place of three.
__device__ inline void split(float x, float& big, float& small) {
    big = __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xFFFFE000u);
    small = __uint_as_float(__float_as_uint(x - big) & 0xFFFFE000u);
}

// c (16, 8) += a (16, 8) · b (8, 8) by the 32 threads of a warp, on numbers rounded to TF32. With group = lane / 4 and
// t = lane % 4 a thread holds a at (group, t), (group + 8, t), (group, t + 4), (group + 8, t + 4); b at (t, group),
// (t + 4, group); c at (group, 2t), (group, 2t + 1), (group + 8, 2t), (group + 8, 2t + 1). PTX ISA, mma.m16n8k8.
__device__ inline void mma_tf32(float c[4], const float a[4], const float b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
                   "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}
