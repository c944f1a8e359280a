// A GEMM with an epilogue: out(row, column) = finish(Σ_k a(row, k)·b(k, column)).
//
// A block of 256 threads computes one tile of the result. The tile's strips of a and b come in slabs of 32 k's into shared
// memory, by cp.async copies into a ring of STAGES slabs while the one before is multiplied. Eight warps share out the tile and
// the k's of a slab; in the end their sums over different k's are added up in shared memory and handed to `finish`, four
// neighbors of a row at a time.
//
// PASSES, a compile option: how a product of floats is done.
//   1  TF32: both factors rounded to 10 bits of fraction, one pass of the tensor cores
//   3  float32 accuracy from three TF32 passes: x = big + small, both TF32, so x·y ≈ small·big + big·small + big·big; what is
//      left out is at most 2⁻²¹ of x·y (Markidis et al. 2018). Sums over more than eight k's are made outside the tensor cores,
//      which do not round to nearest (Ootomo and Yokota 2022)
//   0  plain float32 FMAs, for GPUs below compute capability 8.0
//
// With a CLUSTER of blocks a tile's k's are shared out among these too, and their sums added through each other's shared memory:
// a small result fills the chip, in large tiles that read less.

const int THREADS = 256, SLAB = 32;  // k's in a slab

// A tile of ROWS × COLUMNS. The warps stand WARPS_M × WARPS_N over it, and WARPS_K deep: each takes every WARPS_K-th eight k's.
// BLOCKS are to fit on a multiprocessor; the compiler, told so, takes the registers that this leaves to keep the tensor cores busy.
template <int M, int N, int BLOCKS_, int STAGES_, int WARPS_M_, int WARPS_N_, int WARPS_K_, int CLUSTER_ = 1>
struct Tile {
    static const int ROWS = M, COLUMNS = N, BLOCKS = BLOCKS_, STAGES = STAGES_, CLUSTER = CLUSTER_;
    static const int WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, WARPS_K = WARPS_K_;
    static const int WARP_ROWS = M / WARPS_M, WARP_COLUMNS = N / WARPS_N;
    static const int DOWN = WARP_ROWS / 16, ACROSS = WARP_COLUMNS / 8;  // a warp's 16 × 8 pieces, as the tensor cores have them
    static const int PITCH = N + 8;  // of a row of sums in shared memory
    static const int PARTS = THREADS / N;  // threads that share the sum of a column of b
    static_assert(32 * WARPS_M * WARPS_N * WARPS_K == THREADS, "eight warps");
};
typedef Tile<64, 64, 2, 2, 2, 2, 2> Tile64x64;
typedef Tile<32, 64, 1, 3, 1, 2, 4> Tile32x64;
typedef Tile<32, 32, 1, 4, 2, 1, 4> Tile32x32;
typedef Tile<64, 64, 2, 2, 2, 2, 2, 4> Tile64x64x4;

// How a factor lies in memory. `outer` is the index that is not k: a's row or b's column.
enum Layout {
    K_IN_ROWS,    // element (outer, k) at data[outer·stride + k]
    K_IN_COLUMNS  // element (outer, k) at data[k·stride + outer]
};

struct Factor {
    const float* data;  // on a 16-byte boundary, as is every row
    int stride;
};

// OUTER × SLAB elements of a factor in shared memory, in the order they have outside. Rows are padded so that the threads of
// a warp, reading a fragment, meet 32 different banks.
template <Layout LAYOUT, int OUTER>
struct Slab {
    static const int ROWS = LAYOUT == K_IN_ROWS ? OUTER : SLAB, WIDTH = LAYOUT == K_IN_ROWS ? SLAB : OUTER;
    static const int PITCH = WIDTH + (LAYOUT == K_IN_ROWS ? 4 : 8), SIZE = ROWS * PITCH;
    static const int STEP = THREADS / (WIDTH / 4);  // rows that the block copies at a time

    // Where element (outer, k) is.
    __device__ static int place(int outer, int k) { return LAYOUT == K_IN_ROWS ? outer * PITCH + k : k * PITCH + outer; }

    // What a thread copies of one slab after the other: four neighbors in every STEP-th row.
    struct Copies {
        const float* from;           // in the next slab
        int stride, outers, ks, to;  // outers and ks: how many there are from this thread's first element on

        __device__ Copies(Factor x, int first_outer, int outers_, int first_k, int ks_) {
            int row = threadIdx.x / (WIDTH / 4), column = threadIdx.x % (WIDTH / 4) * 4;
            int outer = first_outer + (LAYOUT == K_IN_ROWS ? row : column), k = first_k + (LAYOUT == K_IN_ROWS ? column : row);
            from = x.data + (LAYOUT == K_IN_ROWS ? (size_t)outer * x.stride + k : (size_t)k * x.stride + outer);
            stride = x.stride;
            outers = outers_ - outer;
            ks = ks_ - k;
            to = row * PITCH + column;
        }

        // Starts the copies of the next slab. What the factor does not have is 0.
        __device__ void start(float* slab) {
#pragma unroll
            for (int i = 0; i < ROWS; i += STEP)
                copy_four(slab + to + i * PITCH, from + i * stride,
                          LAYOUT == K_IN_ROWS ? i < outers && 0 < ks : 0 < outers && i < ks);
            from += LAYOUT == K_IN_ROWS ? SLAB : SLAB * stride;
            ks -= SLAB;
        }
    };
};

// c += a·b over eight k's from k on. `a_slab` and `b_slab` point to the element of this thread's fragments that is nearest to
// the slabs' beginning.
template <class TILE, class A, class B>
__device__ inline void multiply_add(float c[TILE::DOWN][TILE::ACROSS][4], const float* a_slab, const float* b_slab, int k) {
    const int DOWN = TILE::DOWN, ACROSS = TILE::ACROSS;
#if PASSES == 0
#pragma unroll
    for (int i = k; i < k + 8; ++i) {
        float a[DOWN][2], b[ACROSS][2];
#pragma unroll
        for (int m = 0; m < DOWN; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) a[m][half] = a_slab[A::place(16 * m + 8 * half, i)];
#pragma unroll
        for (int n = 0; n < ACROSS; ++n)
#pragma unroll
            for (int next = 0; next < 2; ++next) b[n][next] = b_slab[B::place(8 * n + next, i)];
#pragma unroll
        for (int m = 0; m < DOWN; ++m)
#pragma unroll
            for (int n = 0; n < ACROSS; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) c[m][n][j] = fmaf(a[m][j / 2], b[n][j % 2], c[m][n][j]);
    }
#else
    float a_big[DOWN][4], b_big[ACROSS][2];
#if PASSES == 3
    float a_small[DOWN][4], b_small[ACROSS][2];
#endif
#pragma unroll
    for (int m = 0; m < DOWN; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float x = a_slab[A::place(16 * m + i % 2 * 8, k + i / 2 * 4)];
#if PASSES == 3
            split(x, a_big[m][i], a_small[m][i]);
#else
            a_big[m][i] = round_to_tf32(x);
#endif
        }
#pragma unroll
    for (int n = 0; n < ACROSS; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float x = b_slab[B::place(8 * n, k + i * 4)];
#if PASSES == 3
            split(x, b_big[n][i], b_small[n][i]);
#else
            b_big[n][i] = round_to_tf32(x);
#endif
        }
#if PASSES == 3
    float part[DOWN][ACROSS][4] = {};  // the unit cuts off what it adds; over many k's that would cost the last four digits
#pragma unroll
    for (int pass = 0; pass < 3; ++pass)
#pragma unroll
        for (int m = 0; m < DOWN; ++m)
#pragma unroll
            for (int n = 0; n < ACROSS; ++n)  // pass by pass: a piece's next product would wait for the one before
                mma_tf32(part[m][n], pass == 0 ? a_small[m] : a_big[m], pass == 1 ? b_small[n] : b_big[n]);
#pragma unroll
    for (int m = 0; m < DOWN; ++m)
#pragma unroll
        for (int n = 0; n < ACROSS; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) c[m][n][i] += part[m][n][i];
#else
#pragma unroll
    for (int m = 0; m < DOWN; ++m)
#pragma unroll
        for (int n = 0; n < ACROSS; ++n) mma_tf32(c[m][n], a_big[m], b_big[n]);
#endif
#endif
}

// The tile of this block. `finish(row, column, four)` gets four neighbors of a row at a time, so the result's width divides by 4.
// With SUM_B, sum_b(column, Σ_k c_k·b(k, column)) is called once for every column; where `weights` is a null pointer c is 1.
// Without it b is a layer's weight, which no kernel of the main chain writes: its first slabs may come while the one before runs.
template <class TILE, Layout LAYOUT_A, Layout LAYOUT_B, bool SUM_B, class Finish, class SumB>
__device__ inline void gemm(Factor a, Factor b, int rows, int columns, int ks, Finish finish, SumB sum_b, const float* weights) {
    typedef Slab<LAYOUT_A, TILE::ROWS> A;
    typedef Slab<LAYOUT_B, TILE::COLUMNS> B;
    const int DOWN = TILE::DOWN, ACROSS = TILE::ACROSS, PAIR = A::SIZE + B::SIZE;
    const int SUMS = TILE::WARPS_K * TILE::ROWS * TILE::PITCH, RING = TILE::STAGES * PAIR;
    __shared__ __align__(16) float room[RING > SUMS + THREADS ? RING : SUMS + THREADS];
    static_assert(sizeof(room) <= 48 * 1024, "what a block gets without asking");

    const int CLUSTER = TILE::CLUSTER, ROWS = TILE::ROWS / CLUSTER;  // rows that this block finishes
    static_assert(CLUSTER == 1 || !SUM_B, "whole sums of b are in no block of a cluster");
    int first_row = blockIdx.y * TILE::ROWS, first_column = blockIdx.x / CLUSTER * TILE::COLUMNS;
    int rank = CLUSTER > 1 ? cluster_rank() : 0;
    int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int warp_k = warp / (TILE::WARPS_M * TILE::WARPS_N);
    int row = warp / TILE::WARPS_N % TILE::WARPS_M * TILE::WARP_ROWS, column = warp % TILE::WARPS_N * TILE::WARP_COLUMNS;
    // mma_tf32 says which elements a thread holds; plain FMAs have the same ones of c.
    int a_place = A::place(row + group, 8 * warp_k + (PASSES ? t : 0));
    int b_place = A::SIZE + B::place(column + (PASSES ? group : 2 * t), 8 * warp_k + (PASSES ? t : 0));
    int sum_place = A::SIZE + B::place(threadIdx.x % TILE::COLUMNS, threadIdx.x / TILE::COLUMNS);

    int slabs = (ks + SLAB - 1) / SLAB, share = (slabs + CLUSTER - 1) / CLUSTER, first_slab = min(rank * share, slabs);
    slabs = min(share, slabs - first_slab);
    typename A::Copies a_copies(a, first_row, rows, first_slab * SLAB, ks);
    typename B::Copies b_copies(b, first_column, columns, first_slab * SLAB, ks);
    let_next_kernel_begin();
    const bool B_EARLY = DEPENDENT && !SUM_B;
    for (int ahead = 0; B_EARLY && ahead < min(TILE::STAGES - 1, slabs); ++ahead) b_copies.start(room + ahead * PAIR + A::SIZE);
    wait_for_kernel_before();
    float c[DOWN][ACROSS][4] = {};
    float column_sum = 0.0f;  // of every PARTS-th k, of the column threadIdx.x % COLUMNS
    int now = 0, free = 0;  // where the slabs now used and next filled are in the ring
    for (int ahead = 0; ahead < TILE::STAGES - 1; ++ahead, free += PAIR) {
        if (ahead < slabs) {
            a_copies.start(room + free);
            if (!B_EARLY) b_copies.start(room + free + A::SIZE);
        }
        end_copies();
    }
    for (int slab = 0; slab < slabs; ++slab) {
        wait_copies<TILE::STAGES - 2>();
        __syncthreads();  // the slab has come, and nobody still reads the one before it, whose room is filled again
        if (slab + TILE::STAGES - 1 < slabs) {
            a_copies.start(room + free);
            b_copies.start(room + free + A::SIZE);
        }
        end_copies();
#pragma unroll 1  // twice as much at once would need more registers than there are
        for (int k = 0; k < SLAB; k += 8 * TILE::WARPS_K)
            multiply_add<TILE, A, B>(c, room + now + a_place, room + now + b_place, k);
        if (SUM_B && blockIdx.y == 0)
#pragma unroll
            for (int k = 0; k < SLAB; k += TILE::PARTS) {
                int row = slab * SLAB + threadIdx.x / TILE::COLUMNS + k;
                column_sum += room[now + sum_place + B::place(0, k)] * (weights && row < ks ? weights[row] : 1.0f);
            }
        free = now;
        now = now + PAIR < RING ? now + PAIR : 0;
    }

    __syncthreads();  // nobody reads a slab any more: their room is for the sums, (WARPS_K, ROWS, PITCH)
    float* sums = room + (warp_k * TILE::ROWS + row + group) * TILE::PITCH + column + 2 * t;
#pragma unroll
    for (int m = 0; m < DOWN; ++m)
#pragma unroll
        for (int n = 0; n < ACROSS; ++n) {
            *reinterpret_cast<float2*>(sums + 16 * m * TILE::PITCH + 8 * n) = float2{c[m][n][0], c[m][n][1]};
            *reinterpret_cast<float2*>(sums + (16 * m + 8) * TILE::PITCH + 8 * n) = float2{c[m][n][2], c[m][n][3]};
        }
    if (SUM_B) room[SUMS + threadIdx.x] = column_sum;
    if (CLUSTER > 1) cluster_sync();
    else __syncthreads();
#pragma unroll
    for (int i = 0; i < ROWS * TILE::COLUMNS / 4; i += THREADS) {
        int r = rank * ROWS + (i + threadIdx.x) / (TILE::COLUMNS / 4), s = (i + threadIdx.x) % (TILE::COLUMNS / 4) * 4;
        float4 four = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int part = 0; part < CLUSTER * TILE::WARPS_K; ++part) {
            const float* at = room + (part % TILE::WARPS_K * TILE::ROWS + r) * TILE::PITCH + s;
            float4 more = CLUSTER > 1 ? load_of_block(at, part / TILE::WARPS_K) : *reinterpret_cast<const float4*>(at);
            four = {four.x + more.x, four.y + more.y, four.z + more.z, four.w + more.w};
        }
        if (first_row + r < rows && first_column + s < columns) finish(first_row + r, first_column + s, four);
    }
    if (CLUSTER > 1) cluster_sync();  // others have read this block's sums
    if (SUM_B && blockIdx.y == 0 && threadIdx.x < TILE::COLUMNS && first_column + threadIdx.x < columns) {
        float total = 0.0f;
        for (int part = 0; part < TILE::PARTS; ++part) total += room[SUMS + part * TILE::COLUMNS + threadIdx.x];
        sum_b(first_column + threadIdx.x, total);
    }
}
