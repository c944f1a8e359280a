"""The Parzen-window log-likelihood, by the protocol of Goodfellow et al. 2014 (after Breuleux, Bengio and Vincent 2011).

A Gaussian of one width σ is laid on each of M images of a model, and the mean of these M densities is evaluated at images
that the model has not seen. Letters: N images to judge, M of the model, F = 784 pixels, all of them in [0, 1].

The figure is in nats, per image. It says little about how good samples look: Theis, van den Oord and Bethge 2016 show that
k-means centers beat real images. It is here because it can be compared with what was published.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from npgan.backend import Array, to_numpy
from npgan.evaluation.distances import squared_distances

SIGMAS = tuple(float(sigma) for sigma in np.logspace(-1, 0, 10))
VALIDATION_IMAGES = 1000

PUBLISHED = {  # MNIST, nats, mean and standard error: Goodfellow et al. 2014, table 1
    "DBN": (138.0, 2.0),
    "stacked CAE": (121.0, 1.6),
    "deep GSN": (214.0, 1.1),
    "adversarial nets": (225.0, 2.0),
}


class Parzen(NamedTuple):
    """What the protocol gives for one set of images."""

    mean: float  # of the log-likelihood over the test images, nats
    standard_error: float  # the standard deviation over the test images (ddof 0) / √N
    sigma: float
    validation: tuple[float, ...]  # the mean log-likelihood of the validation images at each of SIGMAS

    @property
    def at_edge(self) -> bool:
        """Whether σ is the grid's smallest or largest, so that a better one may lie outside."""
        return self.sigma in (SIGMAS[0], SIGMAS[-1])


def parzen(model: Array, validation: Array, test: Array) -> Parzen:
    """σ by the mean over ``validation``, then the figure for ``test``. Shapes: model (M, F), the others (N, F), in [0, 1]."""
    means = tuple(float(ll.mean()) for ll in log_likelihoods(validation, model, SIGMAS))
    sigma = SIGMAS[int(np.argmax(means))]
    ll = log_likelihoods(test, model, (sigma,))[0]
    return Parzen(float(ll.mean()), float(ll.std() / math.sqrt(len(ll))), sigma, means)


def log_likelihoods(x: Array, model: Array, sigmas: tuple[float, ...]) -> np.ndarray:
    """ll(x) = log (1/M) Σ_j e^(−‖x − μ_j‖²/2σ²) − F·log(σ√(2π)). Shapes: x (N, F), μ = model (M, F) → float64 (σs, N).

    The distances are in the images' precision; float32 leaves an error below 0.01 nat. The nearest image's term, the
    largest of the sum, is taken out of it in float64, so that the sum is between 1 and M and nothing under- or overflows.
    """
    result = np.empty((len(sigmas), len(x)))
    for rows, distances in squared_distances(x, model):
        closest = distances.min(axis=1)
        distances -= closest[:, None]
        terms = np.empty_like(distances)
        for index, sigma in enumerate(sigmas):
            np.multiply(distances, -0.5 / sigma**2, out=terms)
            sums = to_numpy(np.exp(terms, out=terms).sum(axis=1)).astype(np.float64)
            result[index, rows] = np.log(sums / len(model)) - to_numpy(closest).astype(np.float64) / (2.0 * sigma**2)
        result[:, rows] -= x.shape[1] * np.log(np.array(sigmas)[:, None] * math.sqrt(2.0 * math.pi))
    return result
