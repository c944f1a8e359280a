"""A layer of one's own: layer normalization (Ba, Kiros and Hinton 2016), its gradient check, and a network that has it."""

import numpy as np

from npgan import Adam, Dense, Layer, MeanSquaredError, ReLU, Sequential, check_gradients


class LayerNorm(Layer):
    """y = gain·(x − mean)/std + shift: each row has mean 0 and variance 1 before gain and shift, which are learned."""

    def __init__(self, width, epsilon=1e-5):
        self.width, self.epsilon = width, epsilon

    def shapes(self):
        return {"gain": (self.width,), "shift": (self.width,)}

    def initialize(self, seed, site):
        self.gain[...], self.shift[...] = 1.0, 0.0

    def forward(self, x, key=None):
        centered = x - x.mean(axis=1, keepdims=True)
        std = np.sqrt((centered**2).mean(axis=1, keepdims=True) + self.epsilon)
        normal = centered / std
        return self.gain * normal + self.shift, (normal, std)

    def backward(self, dy, cache):
        """dx = (dn − mean(dn) − n·mean(dn·n))/std with n = (x − mean)/std and dn = dy·gain; the means are of rows.

        Every x of a row moves n directly, by 1/std, and the row's mean and std, which move all n of the row.
        """
        normal, std = cache
        self.dgain[...], self.dshift[...] = (dy * normal).sum(axis=0), dy.sum(axis=0)
        dn = dy * self.gain
        mean, along = dn.mean(axis=1, keepdims=True), (dn * normal).mean(axis=1, keepdims=True)
        return (dn - mean - normal * along) / std


rng = np.random.default_rng(0)
report = check_gradients(LayerNorm(6), rng.normal(size=(4, 6)))
print(report)
assert report.passed

x = rng.uniform(-3.0, 3.0, (256, 1))
target = np.sin(2.0 * x)
net = Sequential([Dense(1, 64), ReLU(), Dense(64, 64), LayerNorm(64), ReLU(), Dense(64, 1)], np.float64)
adam, loss = Adam(net, lr=0.01), MeanSquaredError()
print(net)
for _ in range(500):
    y, caches = net.forward(x)
    net.backward(loss.backward(y, target), caches)
    adam.update(net.parameters, net.gradients)
print(f"mean squared error of sin(2x) after 500 steps: {loss.forward(net(x), target):.5f}")
