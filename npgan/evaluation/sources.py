"""Where the sets of images come from that are put side by side: a generator, real images, k-means centers, noise.

Each gives n images (n, 784) in [0, 1], float32, on the backend; the same seed gives the same images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from npgan.backend import Array, Backend, array_module, to_numpy
from npgan.evaluation.distances import squared_distances
from npgan.gan import IMAGE_PIXELS
from npgan.nn import philox
from npgan.nn.network import Sequential

KMEANS_ITERATIONS = 5  # of Lloyd's: on MNIST a sixth one moves the log-likelihood by less than a nat
_ROWS = 1000
_NOISE_SITE = 2  # of the random stream EVAL; 0 is the generator's noise


def from_generator(g: Sequential, n: int, seed: int, backend: Backend) -> Array:
    """The images that ``npgan sample --n n --seed seed`` draws."""
    noise = backend.to_device(philox.normal(seed, philox.Stream.EVAL, 0, 0, (n, len(g.tensors["0.weight"]))))
    images = np.concatenate([g(noise[start : start + _ROWS]) for start in range(0, n, _ROWS)])
    images += 1.0
    images *= 0.5
    return images


def noise_images(n: int, seed: int, backend: Backend) -> Array:
    """Every pixel by itself, uniform."""
    return philox.uniform(seed, philox.Stream.EVAL, 0, _NOISE_SITE, (n, IMAGE_PIXELS), np.float32, backend.xp)


def which_real(count: int, n: int, seed: int) -> np.ndarray:
    """n of ``count`` places, each at most once, in random order: (n,)."""
    return philox.permutation(seed, 0, count)[:n]


def kmeans_centers(images: Array, n: int, seed: int, progress: Callable[[str], None]) -> Array:
    """n centers of the images (M, 784): a few rounds of Lloyd's algorithm (1957) from n of the images. M ≥ n.

    A round gives every image to its nearest center, then moves every center to the mean of its images; a center without
    any stays where it is. A model that knows nothing but averages, and that the Parzen window likes better than the truth.
    """
    host = to_numpy(images)
    centers = host[which_real(len(host), n, seed)]
    for iteration in range(KMEANS_ITERATIONS):
        on_device = array_module(images).asarray(centers)
        owner = np.concatenate([to_numpy(d.argmin(axis=1)) for _, d in squared_distances(images, on_device)])
        order = np.argsort(owner, kind="stable")
        owners, starts, counts = np.unique(owner[order], return_index=True, return_counts=True)
        centers[owners] = np.add.reduceat(host[order], starts, axis=0) / counts[:, None].astype(np.float32)
        progress(f"k-means: round {iteration + 1} of {KMEANS_ITERATIONS}, {n:,} centers")
    return array_module(images).asarray(centers)
