"""A classifier of digits, trained by this library's own layers, whose features and classes the other figures are made of.

No figure of it compares with one from another classifier, another Inception network least of all.

For MNIST it is published with the package, so that everybody's figures come from one classifier. For other images it is
trained once (about a minute on two cores) and cached with the data as a safetensors file. The file's name holds the hash of
the images, the labels and the recipe. While it is trained, what an epoch leaves is kept beside it: a training that was
interrupted goes on after its last whole epoch, to the bytes of an undisturbed one.
Letters: N images, K = 10 classes, F = 128 features.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgan.backend import Array, Backend, to_numpy
from npgan.data.batches import batch_bounds, iterations_per_epoch, scale_pixels
from npgan.data.mnist import Dataset, Report, cache_folder
from npgan.errors import InputError, first_line
from npgan.files import read_tensors, write_tensors
from npgan.gan import IMAGE_PIXELS
from npgan.nn import ops, philox
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU
from npgan.nn.losses import SoftmaxCrossEntropy
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

CLASSES = 10
FEATURES = 128
_ROWS = 1000  # images at a time when nothing is learned
_SHIFT_SITE = 1  # of the random stream EVAL: which way a batch is shifted


class Recipe(NamedTuple):
    """How the classifier is built and trained: 98.8 % on MNIST's test images. Part of the cache file's name."""

    widths: tuple[int, ...] = (512, 512, FEATURES)
    dropout: tuple[float, ...] = (0.2, 0.3, 0.2)
    slope: float = 0.1
    epochs: int = 16
    batch_size: int = 128
    lr: float = 1e-3  # falls in a straight line to 0 over the training
    shift: int = 1  # every batch is moved by up to so many pixels each way: 0.4 % fewer errors, almost for free
    seed: int = 0


class Classifier:
    """Dense, leaky ReLU and dropout three times, and ten logits."""

    name = "npgan's own classifier"

    def __init__(self, recipe: Recipe, backend: Backend) -> None:
        layers: list[Layer] = []
        width = IMAGE_PIXELS
        for hidden, rate in zip(recipe.widths, recipe.dropout, strict=True):
            layers += [Dense(width, hidden), LeakyReLU(recipe.slope), Dropout(rate)]
            width = hidden
        layers.append(Dense(width, CLASSES))
        self.network = Sequential(layers, xp=backend.xp)

    def features_and_probabilities(self, images: Array) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: images (N, 784) in [−1, 1] → the last hidden layer (N, F) and the classes' probabilities (N, K)."""
        features, probabilities = [], []
        for start in range(0, len(images), _ROWS):
            logits, caches = self.network.forward(images[start : start + _ROWS])
            features.append(to_numpy(caches[-1]))  # the input of the last Dense layer
            probabilities.append(to_numpy(ops.softmax_forward(logits)))
        return np.concatenate(features), np.concatenate(probabilities)

    def accuracy(self, images: Array, labels: np.ndarray) -> float:
        """The share of images (N, 784) in [−1, 1] whose most probable class is their label (N,)."""
        _, probabilities = self.features_and_probabilities(images)
        return float(np.mean(probabilities.argmax(axis=1) == labels))


def get_classifier(data: Dataset, recipe: Recipe, backend: Backend, report: Report, progress: Report) -> Classifier:
    """The classifier of this data set, labels and all: from the cache, else trained and cached.

    ``report`` is told of what a person should know, ``progress`` of every epoch.
    """
    path = _path(data, recipe)
    classifier = Classifier(recipe, backend)
    if (published := _published(path)).exists():
        try:
            _load(classifier, backend, _widened(_read(published)))
        except InputError as error:
            raise InputError(f"{error}: install npgan again") from None
        classifier.name = f"npgan's published classifier {published.stem.removeprefix('classifier-')}"
        return classifier
    if os.path.lexists(path):
        try:
            _load(classifier, backend, _read(path, classifier.network.tensors))
            return classifier
        except InputError as error:
            report(f"the cached classifier is trained anew: {error}")
    kept = _kept_path(path, backend)
    try:
        train(classifier, data, recipe, backend, kept, report, progress)
    except KeyboardInterrupt:
        done = recipe.epochs - epochs_left(data, recipe, backend)
        words = f"interrupted: {done} of {recipe.epochs} epochs of the classifier are kept, to go on from next time"
        raise KeyboardInterrupt(*([words] if done else [])) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, classifier.network.tensors)
        kept.unlink(missing_ok=True)
    except OSError as error:
        report(f"the classifier cannot be cached in {path.parent}: {first_line(error)}")
    return classifier


def labels_of(data: Dataset) -> np.ndarray:
    """The labels (N,), int64. Raises InputError where there are none, or one that is no digit."""
    if data.labels is None:
        raise InputError(f"{data.source}: has no labels, which the classifier of the evaluation learns from")
    labels = np.asarray(data.labels)
    if (wrong := labels[~np.isin(labels, np.arange(CLASSES))]).size:  # NaN is in nothing
        raise InputError(f"{data.source}: has a label {wrong[0]}: the classifier knows 0 to {CLASSES - 1}")
    return labels.astype(np.int64)


def epochs_left(data: Dataset, recipe: Recipe, backend: Backend) -> int:
    """How many epochs ``get_classifier`` will have to train: 0 where there is a file of it."""
    path = _path(data, recipe)
    with suppress(InputError):
        _read(_published(path) if _published(path).exists() else path)
        return 0
    with suppress(InputError):
        kept = _kept_path(path, backend)
        return recipe.epochs - _epochs_done(kept, _read(kept), recipe, len(data.images))
    return recipe.epochs


def train(
    classifier: Classifier,
    data: Dataset,
    recipe: Recipe,
    backend: Backend,
    kept: Path,
    report: Report,
    progress: Report,
) -> None:
    """Adam on the softmax cross-entropy, in batches whose order and dropout follow from the recipe's seed.

    ``kept``: the file that every epoch is kept in, and that an earlier training, if it is there, is taken up from.
    """
    network = classifier.network
    network.initialize(recipe.seed)
    adam, loss_function = Adam(network), SoftmaxCrossEntropy()
    done = 0
    if os.path.lexists(kept):
        try:
            done = _take_up(kept, network, adam, backend, recipe, len(data.images))
        except InputError as error:
            report(f"the classifier is trained from the start: {error}")
    images, labels = backend.to_device(data.images), backend.to_device(labels_of(data))
    count = len(images)
    per_epoch = iterations_per_epoch(count, recipe.batch_size)
    keeping = True
    for epoch in range(done, recipe.epochs):
        order = philox.permutation(recipe.seed, epoch, count, backend.xp)
        loss = 0.0
        for iteration in range(per_epoch):
            step = epoch * per_epoch + iteration
            picked = order[batch_bounds(iteration, count, recipe.batch_size)]
            x = scale_pixels(_shifted(images[picked], recipe, step))
            logits, caches = network.forward(x, DropoutKey(recipe.seed, step, 0))
            network.backward(loss_function.backward(logits, labels[picked]), caches)
            adam.lr = recipe.lr * (1.0 - step / (recipe.epochs * per_epoch))
            adam.update(network.parameters, network.gradients)
            loss += float(loss_function.forward(logits, labels[picked]))
        if keeping and epoch + 1 < recipe.epochs:
            keeping = _keep(kept, network, adam, report)
        progress(f"classifier: epoch {epoch + 1} of {recipe.epochs}, loss {loss / per_epoch:.4f}")


def _shifted(pixels: Array, recipe: Recipe, step: int) -> Array:
    """The batch (N, 784) moved as a whole. What leaves on one side enters on the other, where MNIST is empty."""
    words = philox.random_words(recipe.seed, philox.Stream.EVAL, step, _SHIFT_SITE, 2) % (2 * recipe.shift + 1)
    down, right = (int(word) - recipe.shift for word in words)
    side = int(IMAGE_PIXELS**0.5)
    return np.roll(pixels.reshape(-1, side, side), (down, right), axis=(1, 2)).reshape(-1, IMAGE_PIXELS)


def _path(data: Dataset, recipe: Recipe) -> Path:
    sha = hashlib.sha256(json.dumps(recipe).encode())
    sha.update(np.ascontiguousarray(data.images).data)
    sha.update(np.ascontiguousarray(data.labels).data)
    return cache_folder() / f"classifier-{sha.hexdigest()[:16]}.safetensors"


def _kept_path(path: Path, backend: Backend) -> Path:
    """Where the unfinished training of the classifier at ``path`` is kept: one for each backend, as they sum differently."""
    return path.with_suffix(f".{backend.name}.training")


def _keep(path: Path, network: Sequential, adam: Adam, report: Report) -> bool:
    """Writes what the next epoch starts from. Where that fails, says so and returns False."""
    tensors = {**network.tensors, "adam.m": adam.m, "adam.v": adam.v, "adam.step": np.array([adam.step])}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, tensors)
    except OSError as error:
        report(f"the classifier's epochs cannot be kept in {path.parent}: {first_line(error)}")
        return False
    return True


def _take_up(path: Path, network: Sequential, adam: Adam, backend: Backend, recipe: Recipe, images: int) -> int:
    """Puts back what ``_keep`` wrote; returns its epochs. Raises InputError when the file is not intact."""
    targets = {**network.tensors, "adam.m": adam.m, "adam.v": adam.v}
    tensors = _read(path, {**targets, "adam.step": np.array([0])})
    done = _epochs_done(path, tensors, recipe, images)
    adam.step = int(tensors["adam.step"][0])
    for name, target in targets.items():
        target[...] = backend.to_device(tensors[name])
    return done


def _epochs_done(path: Path, tensors: Mapping[str, np.ndarray], recipe: Recipe, images: int) -> int:
    """Raises InputError for a step that no epoch of this training ends with."""
    steps = tensors.get("adam.step", np.zeros(0))
    per_epoch = iterations_per_epoch(images, recipe.batch_size)
    if steps.shape != (1,) or steps[0] % per_epoch or not 0 < steps[0] < recipe.epochs * per_epoch:
        raise InputError(f"{path}: its step is not the end of an epoch")
    return int(steps[0]) // per_epoch


def _load(classifier: Classifier, backend: Backend, tensors: Mapping[str, np.ndarray]) -> None:
    for name, array in classifier.network.tensors.items():
        array[...] = backend.to_device(tensors[name])


def _published(path: Path) -> Path:
    """Where the classifier that would be cached at ``path`` is if it is one of the package's own."""
    return Path(__file__).with_name(path.name)


def publish(data: Dataset, test: Dataset, recipe: Recipe, backend: Backend) -> Path:
    """Writes this data set's cached classifier beside this file, as part of the package, and its accuracy with it.

    At a quarter of the size: every weight is rounded to a whole number from −127 to 127, in units of 1/127 of the largest
    that its output has.
    """
    path = _path(data, recipe)
    small = _narrowed(_read(path))
    classifier = Classifier(recipe, backend)
    _load(classifier, backend, _widened(small))
    accuracy = classifier.accuracy(scale_pixels(backend.to_device(test.images)), labels_of(test))
    _write(_published(path), small, {"accuracy": f"{accuracy:.4f}"})
    return _published(path)


def _narrowed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    small: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if array.ndim == 2:
            unit = np.abs(array).max(axis=0) / np.float32(127)
            small |= {f"{name}.unit": unit, name: np.round(array / unit).astype(np.int8)}
        else:
            small[name] = array
    return small


def _widened(small: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = {name: array for name, array in small.items() if not name.endswith(".unit")}
    return {name: array * small[f"{name}.unit"] if array.ndim == 2 else array for name, array in wide.items()}


def _write(path: Path, tensors: Mapping[str, Array], more: Mapping[str, str] | None = None) -> None:
    on_host = {name: np.ascontiguousarray(to_numpy(array)) for name, array in tensors.items()}
    write_tensors(path, on_host, {"sha256": _digest(on_host), **(more or {})})


def _read(path: Path, like: Mapping[str, Array] | None = None) -> dict[str, np.ndarray]:
    """The tensors in a file, of the names and kinds of ``like``. Raises InputError, naming the file, when it is not intact."""
    tensors, metadata = read_tensors(path)
    if _digest(tensors) != metadata.get("sha256") or not all(np.isfinite(array).all() for array in tensors.values()):
        raise InputError(f"{path}: the file is damaged")
    if like is not None and _kinds(tensors) != _kinds(like):
        raise InputError(f"{path}: the file holds other tensors")
    return tensors


def _kinds(tensors: Mapping[str, Array]) -> dict[str, tuple[object, object]]:
    return {name: (array.shape, array.dtype) for name, array in tensors.items()}


def _digest(tensors: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].data)
    return sha.hexdigest()
