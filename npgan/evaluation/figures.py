"""All figures of one set of images against the real ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npgan.backend import Array, Backend, to_numpy
from npgan.data.mnist import Dataset, Report
from npgan.errors import InputError
from npgan.evaluation.classifier import FEATURES, Classifier, Recipe, get_classifier, labels_of
from npgan.evaluation.distances import nearest, radii
from npgan.evaluation.metrics import (
    NEIGHBORS,
    NEIGHBORS_OF_DENSITY,
    Classes,
    DensityCoverage,
    Memory,
    PrecisionRecall,
    classes,
    density_coverage,
    frechet_distance,
    memory,
    moments,
    precision_recall,
)
from npgan.evaluation.parzen import VALIDATION_IMAGES, Parzen, parzen

RECIPE = Recipe()


class Figures(NamedTuple):
    """What is measured of one set of images. ``memory`` is left out where nobody asked for the nearest images."""

    parzen: Parzen
    frechet: float
    precision_recall: PrecisionRecall
    density_coverage: DensityCoverage
    classes: Classes
    memory: Memory | None


class Details(NamedTuple):
    """What a picture needs of the set that was measured. Shapes: (N,) each."""

    label: np.ndarray  # the most probable class
    neighbor: np.ndarray | None  # place of the nearest training image; None like ``memory``


class Judge:
    """The real images, what is known of them, and the classifier: everything that sets of images are measured against.

    Reference of Fréchet distance, precision, recall, density and coverage are the test images. σ is chosen on the first
    thousand of the last sixth of the training images: train[50000:51000] of MNIST's 60,000.
    """

    def __init__(self, train: Dataset, test: Dataset, backend: Backend, report: Report, progress: Report) -> None:
        """Trains the classifier where it is not cached. Raises InputError for data that cannot be judged by."""
        _, test_labels = labels_of(train), labels_of(test)
        if len(test.images) <= FEATURES:
            raise InputError(
                f"{test.source}: {len(test.images)} test images are too few for a covariance of {FEATURES} features: "
                f"at least {FEATURES + 1} are needed"
            )
        self.backend = backend
        self.fair = fair_images(len(train.images))
        if len(train.images) - self.fair < 1:
            raise InputError(f"{train.source}: {len(train.images)} training images are too few to set some aside")
        self.classifier: Classifier = get_classifier(train, RECIPE, backend, report, progress)
        self.train = _unit_interval(train.images, backend)
        self.validation = self.train[self.fair : self.fair + VALIDATION_IMAGES]
        self.test = _unit_interval(test.images, backend)
        self.accuracy = self.classifier.accuracy(2.0 * self.test - 1.0, test_labels)
        self.features, _ = self.classifier.features_and_probabilities(2.0 * self.test - 1.0)
        self._moments = moments(self.features)
        self._radii = [radii(self.features, k) for k in (NEIGHBORS, NEIGHBORS_OF_DENSITY)]

    def figures(
        self, images: Array, itself: np.ndarray | None = None, with_memory: bool = True
    ) -> tuple[Figures, Details]:
        """Shapes: images (N, 784) in [0, 1], N > 128. ``itself`` (N,): where among the training images they are found."""
        features, probabilities = self.classifier.features_and_probabilities(2.0 * images - 1.0)
        remembered, details = None, Details(probabilities.argmax(axis=1), None)
        if with_memory:
            distances, neighbors = nearest(
                images, self.train, None if itself is None else self.backend.to_device(itself)
            )
            remembered = memory(to_numpy(distances))
            details = details._replace(neighbor=to_numpy(neighbors))
        measured = Figures(
            parzen(images, self.validation, self.test),
            frechet_distance(moments(features), self._moments),
            precision_recall(features, self.features, self._radii[0]),
            density_coverage(features, self.features, self._radii[1]),
            classes(probabilities),
            remembered,
        )
        return measured, details


def fair_images(count: int) -> int:
    """How many of the first training images a model may have seen: five sixths, 50,000 of MNIST's 60,000."""
    return count * 5 // 6


def check_sample_count(n: int, training_images: int) -> None:
    """Raises InputError, naming the flag, when n images cannot be measured or as many real ones cannot be drawn."""
    if n <= FEATURES:
        raise InputError(
            f"--n {n}: too few for a covariance of {FEATURES} features: at least {FEATURES + 1} are needed"
        )
    if n > fair_images(training_images):
        raise InputError(f"--n {n}: at most {fair_images(training_images)}, five sixths of the training images")


def _unit_interval(pixels: np.ndarray, backend: Backend) -> Array:
    return np.divide(backend.to_device(pixels), 255.0, dtype=np.float32)
