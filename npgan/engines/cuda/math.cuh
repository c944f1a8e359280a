// The maths of one number: random draws, activations and their derivatives, the loss, Adam. No threads, no memory:
// tests/ptx/test_numbers.py compares every function with its namesake in npgan/nn.

typedef unsigned int u32;
typedef unsigned long long u64;

#define BCE_EPSILON 1.1920929e-07f  // nn.ops.BCE_EPSILON

enum Stream { LATENT = 2, DROPOUT = 3 };  // npgan.nn.philox.Stream

struct Words { u32 first, second, third, fourth; };

// Philox4x32-10, Salmon et al. 2011. The counter is (block, step, site, stream), the key the seed's two halves.
__device__ inline Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u64 seed) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        u64 product_0 = (u64)0xD2511F53u * c0, product_1 = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(product_1 >> 32) ^ c1 ^ k0;
        c1 = (u32)product_1;
        c2 = (u32)(product_0 >> 32) ^ c3 ^ k1;
        c3 = (u32)product_0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{c0, c1, c2, c3};
}

// Two standard normal numbers from two words: Box and Muller 1958, as nn.philox.normal has it.
__device__ inline void box_muller(u32 word_1, u32 word_2, float* x, float* y) {
    float u1 = (float)word_1 * 2.3283064365386963e-10f + 1.1641532182693481e-10f;  // (word + 1/2) / 2^32
    float u2 = (float)word_2 * 2.3283064365386963e-10f + 1.1641532182693481e-10f;
    float radius = sqrtf(-2.0f * logf(u1)), sine, cosine;
    sincospif(2.0f * u2, &sine, &cosine);  // of 2·π·u2; sincosf would need a stack, for angles far from 0
    *x = radius * cosine;
    *y = radius * sine;
}

// A pixel 0 … 255 to -1 … 1: data.batches.scale_pixels.
__device__ inline float scale_pixel(unsigned char pixel) { return (float)pixel / 127.5f - 1.0f; }

__device__ inline float leaky_relu(float z, float slope) { return fmaxf(z, slope * z); }

// dy/dz from z, or from y = leaky_relu(z), which has the same sign.
__device__ inline float leaky_relu_dydz(float z, float slope) { return z > 0.0f ? 1.0f : slope; }

// 0 where dropped, else 1/(1 - p): nn.layers.Dropout.mask of one element from its 16 random bits.
__device__ inline float dropout_mask(u32 bits, u32 threshold, float scale) { return bits >= threshold ? scale : 0.0f; }

// dy/dz from y = tanh z.
__device__ inline float tanh_dydz(float y) { return 1.0f - y * y; }

__device__ inline float sigmoid(float z) {
    float e = expf(-fabsf(z));
    return (z > 0.0f ? 1.0f : e) / (1.0f + e);
}

// One row's loss, and dz: its gradient in the logit z for a mean over `rows` rows.
__device__ inline float bce_loss(float p, float target) {
    return -(target * logf(p + BCE_EPSILON) + (1.0f - target) * logf(1.0f - p + BCE_EPSILON));
}

__device__ inline float bce_dz(float p, float target, float rows) {
    float dp = ((1.0f - target) / (1.0f - p + BCE_EPSILON) - target / (p + BCE_EPSILON)) / rows;
    return dp * ((1.0f - p) * p);
}

__device__ inline float bce_with_logits_loss(float z, float target) {
    return (z > 0.0f ? z : 0.0f) - target * z + log1pf(expf(-fabsf(z)));
}

__device__ inline float bce_with_logits_dz(float z, float target, float rows) { return (sigmoid(z) - target) / rows; }

enum Loss { BCE, BCE_LOGITS, RELATIVISTIC };  // config.loss

// What Adam's step multiplies with, the same for all elements: 1 - beta, lr/(1 - beta1^t) and 1/(1 - beta2^t); and the share by
// which the average of the parameters moves, 1 - gan.kept_of_average.
struct AdamStep { float beta1, beta2, rest1, rest2, epsilon, rate, unbias, moved; };

// x to the power n by squaring: a tenth of pow's instructions, which one thread would do after all others. It is off by up to
// n·2⁻⁵³ of itself; 1 - beta^t is not off by more than 2⁻⁵³/(1 - beta).
__device__ inline double power(double x, u32 n) {
    double result = 1.0;
    for (; n; n /= 2, x *= x)
        if (n % 2) result *= x;
    return result;
}

// The t-th step of all, counted from 1.
__device__ inline AdamStep adam_step(u32 t, double lr, double beta1, double beta2, double epsilon, double ema) {
    double rate = lr / (1.0 - power(beta1, t)), unbias = 1.0 / (1.0 - power(beta2, t)), kept = t / (9.0 + t);
    return AdamStep{(float)beta1,   (float)beta2, (float)(1.0 - beta1), (float)(1.0 - beta2),
                    (float)epsilon, (float)rate,  (float)unbias,        (float)(1.0 - (kept < ema ? kept : ema))};
}

// The share of the learning rates in an epoch, counted from 0, on a cosine over `epochs`, or 1 where they are 0: no schedule.
// engines.base.set_learning_rates, as sin²(π/2·(1 - epoch/epochs)): of small shares, too, float32 has all digits.
__device__ inline double share_of_rate(u32 epoch, u32 epochs) {
    if (epochs == 0) return 1.0;
    double sine = sinpif((float)(epochs - epoch) / (2.0f * epochs));
    return sine * sine;
}

// Kingma and Ba 2015, algorithm 1: nn.optim.Adam.update for one element.
__device__ inline void adam(AdamStep s, float g, float* param, float* m, float* v) {
    *m = *m * s.beta1 + g * s.rest1;
    *v = *v * s.beta2 + g * g * s.rest2;
    *param -= *m * s.rate / (sqrtf(*v * s.unbias) + s.epsilon);
}
