"""How the classifier is trained, step by step; what it is worth is in ``test_evaluation.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from npgan.backend import Backend
from npgan.data.batches import scale_pixels
from npgan.data.digits import render
from npgan.data.mnist import Dataset, load_dataset
from npgan.evaluation import classifier as classifier_module
from npgan.evaluation.classifier import (
    Classifier,
    Recipe,
    _shifted,
    epochs_left,
    get_classifier,
    labels_of,
    train,
)
from npgan.nn.layers import Dropout
from npgan.nn.optim import Adam

REAL_MNIST = Path(__file__).parents[3] / "shared" / "mnist"
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


def test_the_published_classifier_is_whole_small_and_found_by_the_hash_of_its_data(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = Path(classifier_module.__file__).parent.glob("classifier-*.safetensors")
    assert file.stat().st_size < 1_000_000
    monkeypatch.setattr(classifier_module, "_path", lambda data, recipe: Path("elsewhere") / file.name)
    images, labels = render(300, seed=0)
    data = Dataset(images.reshape(300, 784), labels, "digits", "embedded")
    told: list[str] = []
    found = get_classifier(data, Recipe(), backend, told.append, told.append)
    assert found.name == f"npgan's published classifier {file.stem[11:]}" and told == []
    assert epochs_left(data, Recipe(), backend) == 0
    assert found.accuracy(scale_pixels(data.images), labels) > 0.5  # it has never seen such digits: learned on MNIST


def test_rounded_weights_are_within_half_a_unit(backend: Backend) -> None:
    classifier = Classifier(Recipe(), backend)
    classifier.network.initialize(3)
    tensors = classifier.network.tensors
    wide = classifier_module._widened(classifier_module._narrowed(tensors))
    assert wide.keys() == tensors.keys()
    for name, array in tensors.items():
        assert wide[name].dtype == np.float32
        assert (np.abs(wide[name] - array) <= 0.51 * np.abs(array).max(axis=0) / 127).all()


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="no ../shared/mnist beside the checkout")
def test_mnists_published_classifier_has_the_accuracy_that_its_file_tells(backend: Backend) -> None:
    train, test = (load_dataset("mnist", REAL_MNIST, split) for split in ("train", "test"))
    found = get_classifier(train, Recipe(), backend, print, print)
    assert found.name.startswith("npgan's published classifier")
    with safe_open(classifier_module._published(classifier_module._path(train, Recipe())), framework="np") as file:
        told = file.metadata()["accuracy"]
    assert f"{found.accuracy(scale_pixels(test.images), labels_of(test)):.4f}" == told
