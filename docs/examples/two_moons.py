"""A classifier of points in the plane: two half moons that no straight line tells apart."""

import argparse

import numpy as np

from npgan import Adam, Dense, LeakyReLU, Sequential, SoftmaxCrossEntropy


def two_moons(rng, count):
    """Points (count, 2), and which moon each is from (count,)."""
    label, angle = rng.integers(0, 2, count), rng.uniform(0, np.pi, count)
    moon = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(label[:, None] == 0, moon, [1.0, 0.5] - moon)
    return (points + rng.normal(0, 0.1, points.shape)).astype(np.float32), label


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=500)
args = parser.parse_args()

rng = np.random.default_rng(0)
net = Sequential([Dense(2, 32), LeakyReLU(), Dense(32, 32), LeakyReLU(), Dense(32, 2)])
adam, loss = Adam(net, lr=0.01), SoftmaxCrossEntropy()
print(net)
for step in range(1, args.steps + 1):
    x, label = two_moons(rng, 64)
    logits, caches = net.forward(x)
    net.backward(loss.backward(logits, label), caches)
    adam.update(net.parameters, net.gradients)
    if step % 100 == 0:
        print(f"step {step}: loss {loss.forward(logits, label):.4f}")

x, label = two_moons(rng, 10_000)
print(f"accuracy on 10,000 new points: {np.mean(net(x).argmax(axis=1) == label):.1%}")
