"""How the classifier is trained, step by step; what it is worth is in ``test_evaluation.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npgan.backend import Backend
from npgan.data.digits import render
from npgan.data.mnist import Dataset
from npgan.evaluation.classifier import Classifier, Recipe, _shifted, train
from npgan.nn.layers import Dropout
from npgan.nn.optim import Adam

_SHARP = Recipe(widths=(20, 15, 12), epochs=2, batch_size=50, lr=0.01)


def test_the_learning_rate_falls_in_a_straight_line(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    update = Adam.update
    monkeypatch.setattr(Adam, "update", lambda adam, *vectors: (rates.append(adam.lr), update(adam, *vectors)))
    images, labels = render(120, 1)
    data = Dataset(images.reshape(-1, 784), labels, "mnist", "a test")
    train(Classifier(_SHARP, backend), data, _SHARP, backend, tmp_path / "kept", print, lambda line: None)
    assert rates == pytest.approx([0.01, 0.01 * 5 / 6, 0.01 * 4 / 6, 0.01 * 3 / 6, 0.01 * 2 / 6, 0.01 / 6])


def test_the_recipe_of_the_published_figures() -> None:
    assert Recipe() == ((512, 512, 128), (0.2, 0.3, 0.2), 0.1, 16, 128, 1e-3, 1, 0)


def test_batches_are_moved_by_a_pixel_each_way_or_not_at_all() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10, 20] = 255
    seen = set()
    for step in range(200):
        moved = _shifted(image.reshape(1, 784), Recipe(), step).reshape(28, 28)
        ((down, right),) = np.argwhere(moved)
        seen.add((int(down) - 10, int(right) - 20))
    assert seen == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def test_nothing_is_dropped_when_it_judges(backend: Backend) -> None:
    classifier = Classifier(Recipe(), backend)
    classifier.network.initialize(0)
    assert [layer.rate for layer in classifier.network.layers if isinstance(layer, Dropout)] == [0.2, 0.3, 0.2]
    x = np.random.default_rng(0).uniform(-1, 1, (1500, 784)).astype(np.float32)
    features, probabilities = classifier.features_and_probabilities(x)
    assert features.shape == (1500, 128) and probabilities.shape == (1500, 10)
    last = classifier.network.tensors["9.weight"], classifier.network.tensors["9.bias"]
    z = features @ last[0] + last[1]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, e / e.sum(axis=1, keepdims=True), rtol=1e-4)
    right = classifier.accuracy(x, probabilities.argmax(axis=1))
    assert right == 1.0 and (features < 0).any()
