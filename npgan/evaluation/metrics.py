"""What a classifier's features and probabilities say about a set of images. All in NumPy.

Letters: N images of the set, M real ones, F features, K classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from npgan.evaluation.distances import in_balls, radii

NEIGHBORS = 3  # Kynkäänniemi et al. 2019 take the third nearest neighbor
NEIGHBORS_OF_DENSITY = 5  # Naeem et al. 2020 the fifth
SURE = 0.95  # from this probability on the classifier counts as sure


class Moments(NamedTuple):
    """The Gaussian that the Fréchet distance takes a set of features for. Shapes: mean (F,), covariance (F, F)."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Shapes: features (N, F), N > F, for with fewer the covariance has no full rank: ValueError. In float64."""
    n, f = features.shape
    if n <= f:
        raise ValueError(f"{n} images are too few for the covariance of {f} features: {f + 1} are needed")
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centered = features - mean
    return Moments(mean, centered.T @ centered / (n - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖m_a − m_b‖² + tr(C_a + C_b − 2(C_a·C_b)^½), the squared distance of two Gaussians. Dowson and Landau 1982.

    C_a·C_b is not symmetric, but has the eigenvalues of S·C_b·S with S = C_a^½, which is: two symmetric
    eigen-decompositions give the trace of the root, and rounding cannot make it complex.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    difference = a.mean - b.mean
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * trace_of_root
    return max(0.0, float(distance))


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float  # of the set's images that lie where real ones do
    recall: float  # of the real images that lie where the set's do


def precision_recall(
    features: np.ndarray, real: np.ndarray, real_radii: np.ndarray | None = None, k: int = NEIGHBORS
) -> PrecisionRecall:
    """Kynkäänniemi et al. 2019. Shapes: features (N, F), real (M, F), both longer than k: ValueError.

    A set covers the balls around its members that reach to their k-th nearest member. ``real_radii`` (M,) saves computing
    ``radii(real, k)`` again.
    """
    _check_counts(features, real, k)
    precision = _any_within(features, real, radii(real, k) if real_radii is None else real_radii).mean()
    recall = _any_within(real, features, radii(features, k)).mean()
    return PrecisionRecall(float(precision), float(recall))


def _any_within(x: np.ndarray, points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.concatenate([inside.any(axis=1) for inside in in_balls(x, points, radius)])


def _check_counts(features: np.ndarray, real: np.ndarray, k: int) -> None:
    if min(len(features), len(real)) <= k:
        raise ValueError(f"{min(len(features), len(real))} images are too few for {k} nearest neighbors")


class DensityCoverage(NamedTuple):
    """One lonely real image has a large ball, which alone may make precision high: these two do not fall for it."""

    density: float  # the balls of real images that an image of the set lies in, divided by k: about 1 for real ones
    coverage: float  # the share of real images whose ball holds an image of the set


def density_coverage(
    features: np.ndarray, real: np.ndarray, real_radii: np.ndarray | None = None, k: int = NEIGHBORS_OF_DENSITY
) -> DensityCoverage:
    """Naeem et al. 2020, equations 3 and 4. Shapes and errors: as ``precision_recall``; the balls are real images' only."""
    _check_counts(features, real, k)
    inside_of, covered = 0, np.zeros(len(real), bool)
    for inside in in_balls(features, real, radii(real, k) if real_radii is None else real_radii):
        inside_of += int(inside.sum())
        covered |= inside.any(axis=0)
    return DensityCoverage(inside_of / (k * len(features)), float(covered.mean()))


class Classes(NamedTuple):
    """What classes a set of images has. Logarithms are natural."""

    histogram: tuple[int, ...]  # images of each most probable class
    entropy: float  # of the histogram, nats; log 10 = 2.303 when all classes are equally frequent
    kl_to_uniform: float  # log 10 − entropy: 0 when nothing is missing
    sure: float  # share of images with a class of probability SURE or more
    score: float  # exp of the mean KL(p(y|x) ‖ p(y)), as the Inception score of Salimans et al. 2016: from 1 to 10


def classes(probabilities: np.ndarray) -> Classes:
    """Shapes: probabilities (N, K), rows that sum to 1."""
    p = probabilities.astype(np.float64)
    k = p.shape[1]
    histogram = np.bincount(p.argmax(axis=1), minlength=k)
    entropy = _entropy(histogram / len(p))
    information = _entropy(p.mean(axis=0)) - np.mean([_entropy(row) for row in p])
    return Classes(
        tuple(int(count) for count in histogram),
        entropy,
        math.log(k) - entropy,
        float(np.mean(p.max(axis=1) >= SURE)),
        float(np.exp(information)),
    )


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum()) + 0.0  # + 0.0: no −0


class Memory(NamedTuple):
    """How far images are from the training images: Euclidean distances of pixels in [0, 1]."""

    median: float
    smallest: float
    closest_1_percent: float  # the 1st percentile


def memory(distances: np.ndarray) -> Memory:
    """Shapes: distances (N,), each to the nearest training image."""
    return Memory(float(np.median(distances)), float(distances.min()), float(np.percentile(distances, 1)))
