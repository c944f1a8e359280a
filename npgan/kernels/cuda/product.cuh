// A matrix product that ends in a function of its result: out(row, column) = finish(Σ_k a(row, k)·b(k, column)).
//
// A block of 256 threads computes one tile of the result. The tile's strips of a and b come in slabs of 32 k's into shared
// memory, copied ahead in a ring of STAGES slabs while the one before is multiplied. Eight warps share out the tile, each 16 rows of
// it; in the smallest tile two warps share one place and half of the k's each, and their sums are added at the end.
//
// PASSES, a compile option: how a product of floats is done.
//   1  TF32: both factors rounded to 10 bits of fraction, one pass of the tensor cores
//   3  float32 accuracy from three TF32 passes: x = big + small, both TF32, so x·y ≈ small·big + big·small + big·big; what is
//      left out is 2⁻²² of x·y (Markidis et al. 2018). Sums over more than eight k's are made outside the tensor cores, which do
//      not round to nearest (Ootomo and Yokota 2022)
//   0  plain float32 FMAs, for GPUs below compute capability 8.0
#pragma once

const int THREADS = 256, SLAB = 32;  // k's in a slab

template <int M, int N, int STAGES_, int WARPS_M_, int WARPS_N_, int WARPS_K_>
struct Tile {
    static const int ROWS = M, COLUMNS = N, STAGES = STAGES_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, WARPS_K = WARPS_K_;
    static const int WARP_COLUMNS = N / WARPS_N;
    static_assert(M == 16 * WARPS_M && 32 * WARPS_M * WARPS_N * WARPS_K == THREADS, "eight warps of 16 rows each");
};
typedef Tile<64, 64, 2, 4, 2, 1> Tile64x64;
typedef Tile<32, 64, 3, 2, 4, 1> Tile32x64;
typedef Tile<32, 32, 4, 2, 2, 2> Tile32x32;

// How a factor lies in memory. `outer` is the index that is not k: a's row or b's column.
enum Layout {
    K_IN_ROWS,    // element (outer, k) at data[outer·stride + k]
    K_IN_COLUMNS  // element (outer, k) at data[k·stride + outer]
};

struct Factor {
    const float* data;
    int stride;
    bool wide;  // rows start on 16-byte boundaries
    __device__ Factor(const float* data_, int stride_)
        : data(data_), stride(stride_), wide(stride_ % 4 == 0 && (size_t)data_ % 16 == 0) {}
};

// OUTER × SLAB elements of a factor in shared memory, in the order they have outside. Rows are padded so that the threads of
// a warp, reading a fragment, meet 32 different banks.
template <Layout LAYOUT, int OUTER>
struct Slab {
    static const int ROWS = LAYOUT == K_IN_ROWS ? OUTER : SLAB, WIDTH = LAYOUT == K_IN_ROWS ? SLAB : OUTER;
    static const int PITCH = WIDTH + (LAYOUT == K_IN_ROWS ? 4 : 8), SIZE = ROWS * PITCH;

    __device__ static float at(const float* slab, int outer, int k) {
        return LAYOUT == K_IN_ROWS ? slab[outer * PITCH + k] : slab[k * PITCH + outer];
    }

    // Starts copying the elements from (first_outer, first_k); beyond (outers, ks) they are 0.
    __device__ static void load(float* slab, Factor x, int first_outer, int outers, int first_k, int ks) {
        int first_row = LAYOUT == K_IN_ROWS ? first_outer : first_k, rows = LAYOUT == K_IN_ROWS ? outers : ks;
        int first_column = LAYOUT == K_IN_ROWS ? first_k : first_outer, columns = LAYOUT == K_IN_ROWS ? ks : outers;
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * WIDTH / 4; i += THREADS) {
            int r = i / (WIDTH / 4), c = i % (WIDTH / 4) * 4;
            int row = first_row + r, column = first_column + c;
            int count = row < rows ? columns - column : 0;
            copy_four(slab + r * PITCH + c, x.data + (size_t)row * x.stride + column, count, x.wide, x.data);
        }
    }
};

// c (16, 8·COUNT) += a·b over eight k's from k on. a's rows start at `row` of its slab, b's columns at `column` of its own.
template <class A, class B, int COUNT>
__device__ inline void multiply_add(float c[COUNT][4], const float* a_slab, const float* b_slab, int row, int column, int k) {
    int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#if PASSES == 0
    for (int i = k; i < k + 8; ++i) {
        float upper = A::at(a_slab, row + group, i), lower = A::at(a_slab, row + group + 8, i);
#pragma unroll
        for (int j = 0; j < COUNT; ++j) {
            float left = B::at(b_slab, column + 8 * j + 2 * t, i), right = B::at(b_slab, column + 8 * j + 2 * t + 1, i);
            c[j][0] = fmaf(upper, left, c[j][0]);
            c[j][1] = fmaf(upper, right, c[j][1]);
            c[j][2] = fmaf(lower, left, c[j][2]);
            c[j][3] = fmaf(lower, right, c[j][3]);
        }
    }
#else
    float a[4], a_big[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        a[i] = A::at(a_slab, row + group + i % 2 * 8, k + t + i / 2 * 4);
        a_big[i] = round_to_tf32(a[i]);
    }
#if PASSES == 3
    float a_small[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a_small[i] = round_to_tf32(a[i] - a_big[i]);
#endif
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
        float b[2], b_big[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            b[i] = B::at(b_slab, column + 8 * j + group, k + t + i * 4);
            b_big[i] = round_to_tf32(b[i]);
        }
#if PASSES == 3
        float b_small[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) b_small[i] = round_to_tf32(b[i] - b_big[i]);
        float part[4] = {};  // the unit cuts off what it adds; over many k's that would cost the last four digits
        mma_tf32(part, a_small, b_big);
        mma_tf32(part, a_big, b_small);
        mma_tf32(part, a_big, b_big);
#pragma unroll
        for (int i = 0; i < 4; ++i) c[j][i] += part[i];
#else
        mma_tf32(c[j], a_big, b_big);
#endif
    }
#endif
}

// The tile of this block. `finish(row, column, left, right)` gets two neighbours of a row at a time, so the result's width is even.
// With SUM_B, sum_b(column, Σ_k b(k, column)) is called once for every column.
template <class TILE, Layout LAYOUT_A, Layout LAYOUT_B, bool SUM_B, class Finish, class SumB>
__device__ inline void product(Factor a, Factor b, int rows, int columns, int ks, Finish finish, SumB sum_b) {
    typedef Slab<LAYOUT_A, TILE::ROWS> A;
    typedef Slab<LAYOUT_B, TILE::COLUMNS> B;
    const int COUNT = TILE::WARP_COLUMNS / 8, PAIR = A::SIZE + B::SIZE;
    __shared__ __align__(16) float room[TILE::STAGES * PAIR];
    static_assert(sizeof(room) <= 48 * 1024, "what a block gets without asking");

    int first_row = blockIdx.y * TILE::ROWS, first_column = blockIdx.x * TILE::COLUMNS;
    int warp = threadIdx.x / 32;
    int warp_k = warp / (TILE::WARPS_M * TILE::WARPS_N), place = warp % (TILE::WARPS_M * TILE::WARPS_N);
    int row = place / TILE::WARPS_N * 16, column = place % TILE::WARPS_N * TILE::WARP_COLUMNS;
    int slabs = (ks + SLAB - 1) / SLAB;

    float c[COUNT][4] = {};
    float column_sum = 0.0f;
    for (int ahead = 0; ahead < TILE::STAGES - 1; ++ahead) {
        if (ahead < slabs) {
            A::load(room + ahead * PAIR, a, first_row, rows, ahead * SLAB, ks);
            B::load(room + ahead * PAIR + A::SIZE, b, first_column, columns, ahead * SLAB, ks);
        }
        end_copies();
    }
    for (int slab = 0; slab < slabs; ++slab) {
        wait_copies<TILE::STAGES - 2>();
        __syncthreads();  // the slab has come, and nobody still reads the one before it, whose room is filled again
        int ahead = slab + TILE::STAGES - 1;
        if (ahead < slabs) {
            float* free = room + ahead % TILE::STAGES * PAIR;
            A::load(free, a, first_row, rows, ahead * SLAB, ks);
            B::load(free + A::SIZE, b, first_column, columns, ahead * SLAB, ks);
        }
        end_copies();
        const float *a_slab = room + slab % TILE::STAGES * PAIR, *b_slab = a_slab + A::SIZE;
#pragma unroll
        for (int k = 8 * warp_k; k < SLAB; k += 8 * TILE::WARPS_K)
            multiply_add<A, B, COUNT>(c, a_slab, b_slab, row, column, k);
        if (SUM_B && blockIdx.y == 0 && threadIdx.x < TILE::COLUMNS)
            for (int k = 0; k < SLAB; ++k) column_sum += B::at(b_slab, threadIdx.x, k);
    }

    if (TILE::WARPS_K == 2) {
        __syncthreads();
        float* other = room + threadIdx.x % 128 * (COUNT * 4);
        if (warp_k == 1)
            for (int i = 0; i < COUNT * 4; ++i) other[i] = c[i / 4][i % 4];
        __syncthreads();
        if (warp_k == 0)
            for (int i = 0; i < COUNT * 4; ++i) c[i / 4][i % 4] += other[i];
    }
    if (SUM_B && blockIdx.y == 0 && threadIdx.x < TILE::COLUMNS && first_column + threadIdx.x < columns)
        sum_b(first_column + threadIdx.x, column_sum);
    if (warp_k > 0) return;
    int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int r = first_row + row + group + 8 * half, s = first_column + column + 8 * j + 2 * t;
            if (r < rows && s < columns) finish(r, s, c[j][2 * half], c[j][2 * half + 1]);
        }
}
