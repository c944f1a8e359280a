"""A GAN on points of the plane: eight Gaussians on a circle. Draws G's samples on D's surface."""

import argparse

import numpy as np
from PIL import Image, ImageDraw

from npgan import Adam, Dense, LeakyReLU, Sequential, TrainConfig, TrainState, train_step

ANGLES = np.arange(8) * np.pi / 4
CENTERS = 2.0 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
STD, SIDE, EDGE = 0.1, 480, 3.0  # of each Gaussian; of the picture: pixels, and the plane from −3 to 3


def draw(path, g, d, rng):
    """D's surface from blue (fake) to red (real), 512 samples in black, the centers as white rings."""
    ticks = np.linspace(-EDGE, EDGE, SIDE, dtype=np.float32)
    logit = d(np.stack(np.meshgrid(ticks, ticks[::-1]), axis=-1).reshape(-1, 2)).reshape(SIDE, SIDE, 1)
    share = 1.0 / (1.0 + np.exp(-logit))
    picture = Image.fromarray((share * [250, 120, 90] + (1.0 - share) * [90, 140, 250]).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for points, radius, look in ((g(noise(rng, 512)), 1.5, {"fill": "black"}), (CENTERS, 9, {"outline": "white"})):
        for x, y in (points * [1, -1] + EDGE) * SIDE / (2 * EDGE):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), **look)
    picture.save(path)


def noise(rng, count):
    return rng.normal(size=(count, 16)).astype(np.float32)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=5000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="eight-gaussians.png")
args = parser.parse_args()

config = TrainConfig(batch_size=256, latent_dim=16, loss="bce-logits", seed=args.seed)
g = Sequential([Dense(16, 128), LeakyReLU(), Dense(128, 128), LeakyReLU(), Dense(128, 2)], seed=args.seed)
d = Sequential([Dense(2, 128), LeakyReLU(), Dense(128, 128), LeakyReLU(), Dense(128, 1)], seed=args.seed, site=100)
state = TrainState(g, d, Adam(g, lr=1e-3, beta1=0.5), Adam(d, lr=1e-3, beta1=0.5))
rng = np.random.default_rng(args.seed)
for step in range(1, args.steps + 1):
    points = CENTERS[rng.integers(0, 8, config.batch_size)] + rng.normal(0, STD, (config.batch_size, 2))
    metrics = train_step(state, points, config)
    if step % 500 == 0:
        print(f"step {step}: loss of D {metrics.loss_d:.3f}, of G {metrics.loss_g:.3f}", flush=True)

distance = np.linalg.norm(g(noise(rng, 4000))[:, None] - CENTERS, axis=-1)
near = distance.min(axis=1) < 3 * STD
shares = np.bincount(distance.argmin(axis=1)[near], minlength=8) / len(distance)
print(f"modes found: {(shares > 0.02).sum()} of 8; samples within 3 standard deviations of one: {near.mean():.0%}")
draw(args.out, g, d, rng)
