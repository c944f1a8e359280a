// The kernels of a training step: npgan/engines/schedule.py says what each computes, kernels.py beside this file launches them.
// Letters: N rows of a batch, I inputs and O outputs of a Dense layer. Everything is float32, row by row. Rows are as long as
// they are wide, a multiple of four numbers; only latent vectors have any width, and zeros behind it.
// `step` points to the number of iterations done before a graph, which the graph's last kernel advances; `counter` to an
// iteration's own, which `inputs` writes.

const u32 WARP = 0xFFFFFFFFu;

__device__ inline float warp_sum(float x) {
    for (int distance = 16; distance; distance /= 2) x += __shfl_xor_sync(WARP, x, distance);
    return x;
}

// The sum over the block's 256 threads, for every thread, always in the same order.
__device__ inline float block_sum(float x, float* eight) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) eight[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < THREADS / 32; ++warp) total += eight[warp];
    return total;
}

__device__ inline int padded(int width) { return (width + 3) / 4 * 4; }

// --- what goes in: this iteration's images, and both batches of noise --------------------------------------------------

__device__ inline void noise(float* latent, int block, int rows, int width, u32 step, u32 site, u64 seed) {
    Words words = philox(block, step, site, LATENT, seed);
    float x[4];
    box_muller(words.first, words.second, x, x + 1);
    box_muller(words.third, words.fourth, x + 2, x + 3);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int element = 4 * block + i;
        if (element < rows * width) latent[element / width * padded(width) + element % width] = x[i];
    }
}

// images (N, 784) = data[order[iteration's rows]] from -1 to 1, whole batches having `batch`; latent_d (N, Z) and latent_g
// (fakes, Z) standard normal. A thread does four numbers; one more thread for each network does what is the same for all elements
// of its Adam step, adam (2, 8). The iteration is the `offset`-th of its graph.
// data.batches.scale_pixels, nn.philox.normal; sites gan.LATENT_D and LATENT_G.
extern "C" __global__ void __launch_bounds__(THREADS)
inputs(const unsigned char* data, const u32* order, const u32* step, u32* counter, float* images, float* latent_d, float* latent_g,
       float* adam, u32 offset, int rows, int batch, int fakes, int per_epoch, int z, u64 seed, double lr_d, double beta1_d,
       double beta2_d, double epsilon_d, double lr_g, double beta1_g, double beta2_g, double epsilon_g, u32 epochs, double ema) {
    u32 done = *step + offset;
    int i = blockIdx.x * THREADS + threadIdx.x, quads = rows * 196, blocks_d = (rows * z + 3) / 4, blocks_g = (fakes * z + 3) / 4;
    if (i < quads) {
        u32 image = order[done % per_epoch * batch + i / 196];
        uchar4 pixels = reinterpret_cast<const uchar4*>(data)[(size_t)image * 196 + i % 196];
        float4 scaled = {scale_pixel(pixels.x), scale_pixel(pixels.y), scale_pixel(pixels.z), scale_pixel(pixels.w)};
        reinterpret_cast<float4*>(images)[i] = scaled;
    } else if ((i -= quads) < blocks_d) {
        noise(latent_d, i, rows, z, done, 0, seed);
    } else if ((i -= blocks_d) < blocks_g) {
        noise(latent_g, i, fakes, z, done, 1, seed);
    } else if ((i -= blocks_g) < 2) {
        if (i == 0) *counter = done;
        double lr = (i ? lr_g : lr_d) * share_of_rate(done / per_epoch, epochs);
        reinterpret_cast<AdamStep*>(adam)[i] =
            adam_step(done + 1, lr, i ? beta1_g : beta1_d, i ? beta2_g : beta2_d, i ? epsilon_g : epsilon_d, ema);
    }
}

// --- epilogues: what is done to four neighbors of a GEMM's result, (row, column) to (row, column + 3) -------------------

struct Nothing { __device__ void operator()(int, float) const {} };

__device__ inline float4 load(const float* from) { return *reinterpret_cast<const float4*>(from); }

__device__ inline void store(float* to, float4 four) { *reinterpret_cast<float4*>(to) = four; }

__device__ inline float4 plus(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

__device__ inline float4 times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

template <class Function>
__device__ inline float4 each(float4 x, Function f) { return {f(x.x), f(x.y), f(x.z), f(x.w)}; }

struct LeakyRelu {
    const float* bias; float slope; float* y; int width;
    __device__ void operator()(int row, int column, float4 z) const {
        z = plus(z, load(bias + column));
        store(y + (size_t)row * width + column, each(z, [=](float x) { return leaky_relu(x, slope); }));
    }
};

struct LeakyReluDropout {
    const float* bias; float slope; float *y, *dydz; int width; u32 threshold; float scale; const u32* step; u32 site; u64 seed;
    __device__ void operator()(int row, int column, float4 z) const {
        u32 element = (u32)row * width + column;  // width % 8 is 0, so these four are half of one block of 16-bit numbers
        Words words = philox(element / 8, *step, site, DROPOUT, seed);
        u32 first = element & 4 ? words.third : words.first, second = element & 4 ? words.fourth : words.second;
        float4 keep = {dropout_mask(first & 0xFFFF, threshold, scale), dropout_mask(first >> 16, threshold, scale),
                       dropout_mask(second & 0xFFFF, threshold, scale), dropout_mask(second >> 16, threshold, scale)};
        z = plus(z, load(bias + column));
        store(y + element, times(each(z, [=](float x) { return leaky_relu(x, slope); }), keep));
        store(dydz + element, times(each(z, [=](float x) { return leaky_relu_dydz(x, slope); }), keep));
    }
};

struct Tanh {
    const float* bias; float* y; int width;
    __device__ void operator()(int row, int column, float4 z) const {
        z = plus(z, load(bias + column));
        store(y + (size_t)row * width + column, each(z, [](float x) { return tanhf(x); }));
    }
};

struct TimesDydz {
    const float* dydz; float* dz; int width;
    __device__ void operator()(int row, int column, float4 dy) const {
        size_t at = (size_t)row * width + column;
        store(dz + at, times(dy, load(dydz + at)));
    }
};

struct TimesLeakyReluDydz {
    const float* y; float slope; float* dz; int width;
    __device__ void operator()(int row, int column, float4 dy) const {
        size_t at = (size_t)row * width + column;
        store(dz + at, times(dy, each(load(y + at), [=](float x) { return leaky_relu_dydz(x, slope); })));
    }
};

struct TimesTanhDydz {
    const float* y; float* dz; int width;
    __device__ void operator()(int row, int column, float4 dy) const {
        size_t at = (size_t)row * width + column;
        store(dz + at, times(dy, each(load(y + at), [](float x) { return tanh_dydz(x); })));
    }
};

// dz·Wᵀ of the first layer, ∂D/∂(its input), times the rate of each row's penalty.
struct TimesRate {
    const float* rate; float* u; int width;
    __device__ void operator()(int row, int column, float4 g) const {
        float r = rate[row];
        store(u + (size_t)row * width + column, each(g, [=](float x) { return r * x; }));
    }
};

// A layer's parameters, weight (I, O) and behind it bias (O,), each with its gradient and Adam's m and v: nn.optim.Adam.update.
// `average` moves with the parameters, unless it is a null pointer.
// Where m is a null pointer the gradient alone is stored, for `adam_update` to read; where grad is one nobody wants to see it, and a
// seventh of Adam's traffic is spared. `squares` collects Σ g² of one thread.
struct Parameters {
    float *grad, *param, *m, *v, *average, *squares; AdamStep settings;
    __device__ void step(size_t at, float g) const {
        adam(settings, g, param + at, m + at, v + at);
        if (average) average[at] += settings.moved * (param[at] - average[at]);
        *squares += g * g;
    }
    __device__ void update(size_t at, float g) const {
        if (grad) grad[at] = g;
        if (m) step(at, g);
    }
    __device__ void update(size_t at, float4 g) const {
        if (grad) store(grad + at, g);
        if (!m) return;
        float4 p = load(param + at), m_four = load(m + at), v_four = load(v + at);
        adam(settings, g.x, &p.x, &m_four.x, &v_four.x);
        adam(settings, g.y, &p.y, &m_four.y, &v_four.y);
        adam(settings, g.z, &p.z, &m_four.z, &v_four.z);
        adam(settings, g.w, &p.w, &m_four.w, &v_four.w);
        store(param + at, p);
        store(m + at, m_four);
        store(v + at, v_four);
        if (average) {
            float4 mean = load(average + at);
            float moved = settings.moved;
            store(average + at, {mean.x + moved * (p.x - mean.x), mean.y + moved * (p.y - mean.y), mean.z + moved * (p.z - mean.z),
                                 mean.w + moved * (p.w - mean.w)});
        }
        *squares += g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
    }
};

// This block's tile of a (rows, columns) matrix, by lines of 128 bytes: when the GEMM is done it has come from memory.
template <class TILE>
__device__ inline void prefetch_tile(const float* matrix, int rows, int columns) {
    const int LINES = TILE::COLUMNS / 32;
    for (int i = threadIdx.x; i < TILE::ROWS * LINES; i += THREADS) {
        int row = blockIdx.y * TILE::ROWS + i / LINES, column = blockIdx.x * TILE::COLUMNS + i % LINES * 32;
        if (row < rows && column < columns) prefetch(matrix + (size_t)row * columns + column);
    }
}

template <class TILE, class Epilogue>
__device__ inline void forward(const float* x, const float* weight, int n, int i, int o, Epilogue epilogue) {
    gemm<TILE, K_IN_ROWS, K_IN_COLUMNS, false>(Factor{x, padded(i)}, Factor{weight, o}, n, o, i, epilogue, Nothing(), nullptr);
}

template <class TILE, class Epilogue>
__device__ inline void backward(const float* dz, const float* weight, int n, int i, int o, Epilogue epilogue) {
    gemm<TILE, K_IN_ROWS, K_IN_ROWS, false>(Factor{dz, o}, Factor{weight, o}, n, i, o, epilogue, Nothing(), nullptr);
}

// Each kernel for each tile: forward_leaky_relu_64x64 and so on; 64x64x4 are clusters of four blocks.
#define CLUSTER_64x64
#define CLUSTER_32x64
#define CLUSTER_32x32
#define CLUSTER_64x64x4 __cluster_dims__(4, 1, 1)
#define KERNEL(NAME, TILE) extern "C" __global__ void CLUSTER_##TILE __launch_bounds__(THREADS, Tile##TILE::BLOCKS) NAME##_##TILE
#define CHAIN_KERNELS(TILE)                                                                                                      \
    /* y = leaky_relu(x·W + b). Shapes: x (N, I), weight (I, O) → y (N, O) */                                                    \
    KERNEL(forward_leaky_relu, TILE)(const float* x, const float* weight, const float* bias, float* y, int n, int i, int o,      \
                                     float slope) {                                                                              \
        forward<Tile##TILE>(x, weight, n, i, o, LeakyRelu{bias, slope, y, o});                                                   \
    }                                                                                                                            \
    /* the same and dropout, with dydz = ∂y/∂z for the backward */                                                               \
    KERNEL(forward_dropout, TILE)(const float* x, const float* weight, const float* bias, float* y, float* dydz, int n, int i,   \
                                  int o, float slope, u32 threshold, float scale, const u32* step, u32 site, u64 seed) {         \
        forward<Tile##TILE>(x, weight, n, i, o, LeakyReluDropout{bias, slope, y, dydz, o, threshold, scale, step, site, seed});  \
    }                                                                                                                            \
    /* y = tanh(x·W + b) */                                                                                                      \
    KERNEL(forward_tanh, TILE)(const float* x, const float* weight, const float* bias, float* y, int n, int i, int o) {          \
        forward<Tile##TILE>(x, weight, n, i, o, Tanh{bias, y, o});                                                               \
    }                                                                                                                            \
    /* dz of the layer before, (dz·Wᵀ)∘dydz. Shapes: dz (N, O), weight (I, O), dydz (N, I) → (N, I) */                           \
    KERNEL(backward_dydz, TILE)(const float* dz, const float* weight, const float* dydz, float* dz_before, int n, int i,         \
                                int o) {                                                                                         \
        backward<Tile##TILE>(dz, weight, n, i, o, TimesDydz{dydz, dz_before, i});                                                \
    }                                                                                                                            \
    /* the same where the layer before is a leaky ReLU with result y */                                                          \
    KERNEL(backward_leaky_relu, TILE)(const float* dz, const float* weight, const float* y, float* dz_before, int n, int i,      \
                                      int o, float slope) {                                                                      \
        backward<Tile##TILE>(dz, weight, n, i, o, TimesLeakyReluDydz{y, slope, dz_before, i});                                   \
    }                                                                                                                            \
    /* the same where it is a tanh with result y */                                                                              \
    KERNEL(backward_tanh, TILE)(const float* dz, const float* weight, const float* y, float* dz_before, int n, int i, int o) {   \
        backward<Tile##TILE>(dz, weight, n, i, o, TimesTanhDydz{y, dz_before, i});                                               \
    }                                                                                                                            \
    /* u = rate∘(dz·Wᵀ), of the first layer. Shapes: dz (N, O), weight (I, O), rate (N,) → (N, I) */                             \
    KERNEL(input_gradient, TILE)(const float* dz, const float* weight, const float* rate, float* u, int n, int i, int o) {       \
        backward<Tile##TILE>(dz, weight, n, i, o, TimesRate{rate, u, i});                                                        \
    }                                                                                                                            \
    /* out = (u·W)∘∂y/∂z, a forward without biases, of a leaky ReLU with result y. Shapes: u (N, I), y (N, O) → (N, O) */        \
    KERNEL(tangent_leaky_relu, TILE)(const float* u, const float* weight, const float* y, float* out, int n, int i, int o,       \
                                     float slope) {                                                                              \
        forward<Tile##TILE>(u, weight, n, i, o, TimesLeakyReluDydz{y, slope, out, o});                                           \
    }                                                                                                                            \
    /* the same where dropout follows: out = (u·W)∘dydz */                                                                       \
    KERNEL(tangent_dydz, TILE)(const float* u, const float* weight, const float* dydz, float* out, int n, int i, int o) {        \
        forward<Tile##TILE>(u, weight, n, i, o, TimesDydz{dydz, out, o});                                                        \
    }

#define UPDATE_KERNEL(TILE)                                                                                                      \
    /* dW = xᵀ·dz, db = Σ_n c_n·dz_n, and Adam's step. Shapes: x (N, I), dz (N, O) → (I·O + O,); squares: Σ g² by block */       \
    KERNEL(update, TILE)(const float* x, const float* dz, const float* c, float* grad, float* param, float* m, float* v,         \
                         float* average, const float* adam, float* squares, int n, int i, int o) {                               \
        if (PREFETCHED && m) {                                                                                                   \
            prefetch_tile<Tile##TILE>(param, i, o);                                                                              \
            prefetch_tile<Tile##TILE>(m, i, o);                                                                                  \
            prefetch_tile<Tile##TILE>(v, i, o);                                                                                  \
        }                                                                                                                        \
        __shared__ float eight[8];                                                                                               \
        float total = 0.0f;                                                                                                      \
        Parameters layer = {grad, param, m, v, average, &total, *reinterpret_cast<const AdamStep*>(adam)};                       \
        auto weight = [=](int row, int column, float4 g) { layer.update((size_t)row * o + column, g); };                         \
        auto bias = [=](int column, float g) { layer.update((size_t)i * o + column, g); };                                       \
        gemm<Tile##TILE, K_IN_COLUMNS, K_IN_COLUMNS, true>(Factor{x, padded(i)}, Factor{dz, o}, i, o, n, weight, bias, c);       \
        total = block_sum(total, eight);                                                                                         \
        if (threadIdx.x == 0) squares[blockIdx.y * gridDim.x + blockIdx.x] = total;                                              \
    }

#define DENSE_KERNELS(TILE) CHAIN_KERNELS(TILE) UPDATE_KERNEL(TILE)

DENSE_KERNELS(64x64)
DENSE_KERNELS(32x64)
DENSE_KERNELS(32x32)
#if __CUDA_ARCH__ >= 900
CHAIN_KERNELS(64x64x4)
#endif

// --- the discriminator's last layer, one output, and the loss ----------------------------------------------------------

// z of one row, for all of a warp's threads.
__device__ inline float head_z(const float* x_row, const float* weight, const float* bias, int i) {
    float z = 0.0f;
    for (int c = threadIdx.x % 32; c < i; c += 32) z = fmaf(x_row[c], weight[c], z);
    return warp_sum(z) + *bias;
}

// output (N,) = x·w + b, and its sigmoid where the loss is BCE; dz (N,) = the loss's gradient; dz_before (N, I) =
// (start·wᵀ)∘dydz, where start is dz unless another (N,) is given, and dydz, unless given, a leaky ReLU's at x. A warp does a
// row. target (N,). Rows n and N/2 + n are a pair where the loss is relativistic, with the target of the first.
// nn.ops: dense, sigmoid, binary_cross_entropy(_with_logits), relativistic, leaky_relu_backward or dropout_backward.
extern "C" __global__ void __launch_bounds__(THREADS)
head(const float* x, const float* weight, const float* bias, const float* target, const float* dydz, const float* start,
     float* output, float* dz, float* dz_before, int n, int i, float slope, int loss) {
    int row = (blockIdx.x * THREADS + threadIdx.x) / 32, lane = threadIdx.x % 32;
    let_next_kernel_begin();
    wait_for_kernel_before();
    if (row >= n) return;
    const float* x_row = x + (size_t)row * i;
    float z = head_z(x_row, weight, bias, i), p = loss == BCE ? sigmoid(z) : z, dz_row;
    if (loss == RELATIVISTIC) {
        int pairs = n / 2, first = row % pairs;
        float other = head_z(x + (size_t)(row < pairs ? row + pairs : first) * i, weight, bias, i);
        float sign = row < pairs ? 1.0f : -1.0f;
        dz_row = sign * bce_with_logits_dz(sign * (z - other), target[first], pairs);
    } else {
        dz_row = loss == BCE ? bce_dz(p, target[row], n) : bce_with_logits_dz(z, target[row], n);
    }
    if (lane == 0) {
        output[row] = p;
        dz[row] = dz_row;
    }
    float from = start ? start[row] : dz_row;
    for (int c = lane; c < i; c += 32) {
        float s = dydz ? dydz[(size_t)row * i + c] : leaky_relu_dydz(x_row[c], slope);
        dz_before[(size_t)row * i + c] = from * weight[c] * s;
    }
}

// dweight (I,) = xᵀ·dz, dbias () = Σ c_n·dz_n, and Adam's step with them, as in update. A block does 32 columns of x (N, I),
// eight threads each; column I stands for the bias.
extern "C" __global__ void __launch_bounds__(THREADS)
head_update(const float* x, const float* dz, const float* c, float* grad, float* param, float* m, float* v, float* average,
            const float* adam, float* squares, int n, int i) {
    __shared__ float parts[8][32], eight[8];
    int lane = threadIdx.x % 32, part = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float g = 0.0f, total = 0.0f;
    if (column <= i)
        for (int row = part; row < n; row += 8)
            g = fmaf(column < i ? x[(size_t)row * i + column] : c ? c[row] : 1.0f, dz[row], g);
    parts[part][lane] = g;
    __syncthreads();
    if (part == 0 && column <= i) {
        for (int other = 1; other < 8; ++other) g += parts[other][lane];
        Parameters{grad, param, m, v, average, &total, *reinterpret_cast<const AdamStep*>(adam)}.update(column, g);
    }
    total = block_sum(total, eight);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// Adam's step of one layer with a gradient that is there: what update and head_update leave out where m is a null pointer.
extern "C" __global__ void __launch_bounds__(THREADS)
adam_update(float* grad, float* param, float* m, float* v, float* average, const float* adam, float* squares, int count) {
    __shared__ float eight[8];
    float total = 0.0f;
    Parameters layer = {grad, param, m, v, average, &total, *reinterpret_cast<const AdamStep*>(adam)};
    for (int at = blockIdx.x * THREADS + threadIdx.x; at < count; at += gridDim.x * THREADS) layer.step(at, grad[at]);
    total = block_sum(total, eight);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// --- gradient penalties, and what goes in pairs ------------------------------------------------------------------------

// value (N,) = ½·rate·Σ g² from u (N, I) = rate∘g: each row's part of the penalty. A warp does a row.
extern "C" __global__ void __launch_bounds__(THREADS)
penalty_value(const float* u, const float* rate, float* value, int n, int i) {
    int row = (blockIdx.x * THREADS + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    float total = 0.0f;
    for (int c = lane; c < i; c += 32) total += u[(size_t)row * i + c] * u[(size_t)row * i + c];
    total = warp_sum(total);
    if (lane == 0) value[row] = rate[row] > 0.0f ? 0.5f * total / rate[row] : 0.0f;
}

// u += c∘x. Shapes: c (N,), x, u (N, I), I a multiple of 4. A thread does four numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
combine(const float* c, const float* x, float* u, int n, int i) {
    int at = (blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at >= n * i) return;
    float factor = c[at / i];
    store(u + at, plus(load(u + at), each(load(x + at), [=](float y) { return factor * y; })));
}

// out = x, both of `count` numbers, a multiple of 4.
extern "C" __global__ void __launch_bounds__(THREADS)
copy(const float* x, float* out, int count) {
    int at = (blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at < count) store(out + at, load(x + at));
}

// --- the end of an iteration -------------------------------------------------------------------------------------------

// A thread's share of the sum of f(0) … f(count - 1).
template <class Function>
__device__ inline float share(int count, Function f) {
    float total = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) total += f(i);
    return total;
}

// The mean loss of `rows` rows, and each row's probability to be real. Of a relativistic loss half as many pairs; the other half
// of the rows come after the first `pairs` then. nn.ops.
__device__ inline float row_loss(const float* output, const float* target, int i, int pairs, int loss) {
    if (loss == RELATIVISTIC) return bce_with_logits_loss(output[i] - output[pairs + i], target[i]);
    return loss == BCE ? bce_loss(output[i], target[i]) : bce_with_logits_loss(output[i], target[i]);
}

// metrics (iterations of an epoch, 6): this iteration's row, gan.StepMetrics. Then `advance` more iterations are done. One block.
// output_d (2b,), output_g (B,), or (2B,) where the loss is relativistic; penalties: each row's, or a null pointer.
extern "C" __global__ void __launch_bounds__(THREADS)
finish(const float* output_d, const float* target_d, const float* output_g, const float* target_g, const float* squares_d,
       const float* squares_g, const float* penalties, float* metrics, const u32* counter, u32* step, u32 advance, int rows, int batch,
       int per_epoch, int blocks_d, int blocks_g, int loss) {
    __shared__ float eight[8];
    int pairs = loss == RELATIVISTIC ? rows : 0, losses_d = pairs ? rows : 2 * rows;
    auto probability = [=](int i) {
        float y = output_d[i];
        if (pairs) y -= output_d[i < pairs ? i + pairs : i - pairs];
        return loss == BCE ? y : sigmoid(y);
    };
    float values[6] = {
        share(losses_d, [=](int i) { return row_loss(output_d, target_d, i, pairs, loss); }) / losses_d
            + (penalties ? share(2 * rows, [=](int i) { return penalties[i]; }) : 0.0f),
        share(batch, [=](int i) { return row_loss(output_g, target_g, i, batch, loss); }) / batch,
        share(rows, [=](int i) { return probability(i); }) / rows,
        share(rows, [=](int i) { return probability(rows + i); }) / rows,
        share(blocks_d, [=](int i) { return squares_d[i]; }),
        share(blocks_g, [=](int i) { return squares_g[i]; }),
    };  // everything is read before the first barrier
#pragma unroll
    for (int i = 0; i < 6; ++i) values[i] = block_sum(values[i], eight);
    if (threadIdx.x > 0) return;
    for (int i = 0; i < 6; ++i) metrics[*counter % per_epoch * 6 + i] = i < 4 ? values[i] : sqrtf(values[i]);
    *step += advance;
}
