"""What is made of features, probabilities and distances, on numbers small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npgan.evaluation.metrics import classes, density_coverage, memory, precision_recall


def test_balls_reach_to_the_third_nearest_neighbor() -> None:
    """Real numbers 0, 1, 2 and 6: the balls around them have radii 6, 5, 4 and 6."""
    real = np.array([[0.0], [1.0], [2.0], [6.0]])
    inside = np.array([[-6.0], [11.9], [3.0], [12.0]])
    assert precision_recall(inside, real).precision == 1.0
    outside = np.array([[-6.1], [12.1], [3.0], [-100.0]])
    assert precision_recall(outside, real).precision == 0.25
    assert precision_recall(real, outside).recall == 0.25
    with pytest.raises(ValueError, match="3 images are too few for 3 nearest neighbors"):
        precision_recall(real[:3], real)


def test_density_counts_balls_and_coverage_the_real_images_reached() -> None:
    """The same four real numbers, second neighbors: radii 2, 1, 2 and 5, so balls from −2 to 2, 0 to 2, 0 to 4, 1 to 11."""
    real = np.array([[0.0], [1.0], [2.0], [6.0]])
    told = density_coverage(np.array([[1.5], [10.0], [20.0]]), real, k=2)  # in 4, 1 and 0 balls
    assert told.density == 5 / (2 * 3) and told.coverage == 1.0
    told = density_coverage(np.array([[10.0], [20.0], [-1.0]]), real, k=2)  # in 1, 0 and 1
    assert told.density == 2 / (2 * 3) and told.coverage == 0.5
    with pytest.raises(ValueError, match="3 images are too few for 5 nearest neighbors"):
        density_coverage(real[:3], real)


def test_a_classifier_is_sure_from_95_percent_on() -> None:
    rows = [[0.96, 0.04], [0.06, 0.94], [0.95, 0.05], [0.5, 0.5]]
    told = classes(np.array(rows))
    assert told.sure == 0.5 and told.histogram == (3, 1)
    assert told.entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert told.kl_to_uniform == pytest.approx(math.log(2) - told.entropy)
    mean = np.mean(rows, axis=0)
    divergences = [sum(p * math.log(p / q) for p, q in zip(row, mean, strict=True)) for row in rows]
    assert told.score == pytest.approx(math.exp(np.mean(divergences)))


def test_memory_is_told_by_the_middle_the_smallest_and_the_closest_of_a_hundred() -> None:
    assert memory(np.arange(101.0)[::-1] + 3.0) == (53.0, 3.0, 4.0)
