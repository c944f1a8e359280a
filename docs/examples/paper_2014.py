"""The maxout GAN of Goodfellow et al. 2014 on MNIST, with the settings published with it (goodfeli/adversarial, mnist.yaml)."""

import argparse

import numpy as np

import npgan
from npgan import Dense, Dropout, DropoutKey, Maxout, ReLU, Sequential, Sigmoid


class Uniform(Dense):  # its weights start uniform in ±bound
    def __init__(self, in_features, out_features, bound):
        super().__init__(in_features, out_features)
        self.bound = bound

    def initialize(self, seed, site):
        self.weight[...] = np.random.default_rng((seed, site)).uniform(-self.bound, self.bound, self.weight.shape)


class SGD:
    """With a growing momentum and a decaying rate. Only hidden weights' columns are bounded: docs/examples/index.md."""

    def __init__(self, net):
        self.net, self.velocity, self.step = net, np.zeros_like(net.parameters), 0

    def update(self):
        momentum, rate = 0.5 + 0.2 * min(self.step // 500 / 249, 1), max(0.1 / 1.000004**self.step, 1e-6)
        self.velocity[...] = momentum * self.velocity - rate * self.net.gradients
        self.net.parameters += self.velocity
        for layer in [layer for layer in self.net.layers if isinstance(layer, Uniform)][:-1]:
            layer.weight *= np.minimum(1, 1.9365 / np.linalg.norm(layer.weight, axis=0))
        self.step += 1


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data-dir", help="MNIST's files (default: the cache, else a download, else drawn digits)")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
x = npgan.load_dataset("auto", args.data_dir, report=print).images[:50_000] / np.float32(255)
g_layers = [Uniform(100, 1200, 0.05), ReLU(), Uniform(1200, 1200, 0.05), ReLU(), Uniform(1200, 784, 0.05), Sigmoid()]
d_layers = [Dropout(0.2), Uniform(784, 1200, 0.005), Maxout(5), Dropout(0.5), Uniform(240, 1200, 0.005), Maxout(5)]
g = Sequential(g_layers, seed=args.seed)
g.tensors["4.bias"][...] = -np.log(1 / x.mean(axis=0).clip(1e-7, 1 - 1e-7) - 1)  # G starts at the mean image
d = Sequential([*d_layers, Dropout(0.5), Uniform(240, 1, 0.005)], seed=args.seed, site=len(g_layers))
sgd_g, sgd_d, loss = SGD(g), SGD(d), npgan.BinaryCrossEntropyWithLogits()
rng = np.random.default_rng(args.seed)
for epoch in range(1, args.epochs + 1):
    for rows in np.split(rng.permutation(len(x)), range(100, len(x), 100)):
        b = len(rows)
        fake, g_caches = g.forward(rng.uniform(-(3**0.5), 3**0.5, (b, 100)).astype(np.float32))
        z, d_caches = d.forward(np.concatenate([x[rows], fake]), DropoutKey(args.seed, sgd_d.step, forward_pass=0))
        dfake = 2 * d.backward_input(loss.backward(z, np.ones_like(z)), d_caches)[b:]  # 2: a mean over G's half alone
        g.backward(dfake, g_caches)
        d.backward(loss.backward(z, np.repeat(np.float32([[1], [0]]), b, axis=0)), d_caches)
        sgd_g.update()
        sgd_d.update()
    p = loss.probability(z)
    print(f"epoch {epoch}: D(x) {p[:b].mean():.3f}, D(G(z)) {p[b:].mean():.3f}", flush=True)
    npgan.save_grid(2 * fake[:64] - 1, f"paper-2014/epoch-{epoch:02}.png")
