"""The classifier, the figures made of it, k-means, and ``npgan evaluate`` as a user meets it."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npgan.backend import Backend
from npgan.cli import main
from npgan.console import Console
from npgan.data.digits import render
from npgan.data.idx import write_idx
from npgan.data.mnist import Dataset
from npgan.errors import InputError
from npgan.evaluation import callback, classifier, distances, figures, report, sources
from npgan.evaluation.classifier import Classifier, Recipe, epochs_left, get_classifier
from npgan.evaluation.distances import in_balls, nearest, radii, squared_distances
from npgan.evaluation.metrics import Moments, classes, frechet_distance, moments, precision_recall
from npgan.evaluation.picture import read_history
from npgan.nn import ops
from npgan.nn.layers import DropoutKey
from npgan.runs.checkpoint import load
from npgan.runs.folder import RunFolder

_RNG = np.random.default_rng(5)
_QUICK = Recipe(epochs=2, batch_size=50)
_TRAIN, _TEST = render(600, 1), render(200, 2)


def _dataset(split: tuple[np.ndarray, np.ndarray]) -> Dataset:
    return Dataset(split[0].reshape(-1, 784), split[1], "mnist", "a test")


# --- distances


def _all_distances(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.sqrt(((x[:, None].astype(float) - points[None]) ** 2).sum(axis=2))


@pytest.mark.parametrize("block_bytes", [1, 4 * 30 * 7, 1 << 26])
def test_distances_in_blocks_are_the_distances(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    x, points = (5.0 + _RNG.standard_normal((n, 6)).astype(np.float32) for n in (20, 30))
    expected = _all_distances(x, points)
    blocks = [(rows, part.copy()) for rows, part in squared_distances(x, points)]
    assert sum(rows.stop - rows.start for rows, _ in blocks) == 20
    np.testing.assert_allclose(np.concatenate([part for _, part in blocks]), expected**2, rtol=1e-4, atol=1e-5)
    distance, index = nearest(x, points)
    np.testing.assert_array_equal(index, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-4)
    among_themselves = np.sort(_all_distances(points, points), axis=1)
    np.testing.assert_allclose(radii(points, 3), among_themselves[:, 3], rtol=1e-4)
    np.testing.assert_allclose(nearest(points[10:], points, np.arange(10, 30))[0], among_themselves[10:, 1], rtol=1e-4)
    np.testing.assert_array_equal(np.concatenate([*in_balls(x, points, np.full(30, 1.5))]), expected <= 1.5)


def test_other_sizes_do_not_compare() -> None:
    with pytest.raises(ValueError, match="784"):
        next(squared_distances(np.zeros((2, 784)), np.zeros((2, 100))))


# --- figures


def test_frechet_of_gaussians_worked_out_by_hand() -> None:
    """With diagonal covariances the distance is Σ (m_a − m_b)² + (√c_a − √c_b)²."""
    a = Moments(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    b = Moments(np.array([0.0, 4.0]), np.diag([1.0, 25.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 5) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_frechet_against_the_matrix_root_by_iteration() -> None:
    """(C_a·C_b)^½ by Denman and Beavers' iteration, which knows nothing of symmetry or eigenvalues."""
    x, y = _RNG.standard_normal((300, 5)), _RNG.standard_normal((300, 5)) @ _RNG.standard_normal((5, 5)) + 0.3
    a, b = moments(x), moments(y)
    root, inverse = a.covariance @ b.covariance, np.eye(5)
    for _ in range(30):
        root, inverse = (root + np.linalg.inv(inverse)) / 2, (inverse + np.linalg.inv(root)) / 2
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(a.covariance, np.cov(x.T))


def test_too_few_images_for_a_covariance() -> None:
    with pytest.raises(ValueError, match="5 images are too few for the covariance of 5 features: 6 are needed"):
        moments(np.zeros((5, 5)))


def test_precision_and_recall_see_what_is_missing_and_what_is_wrong() -> None:
    left, right = _RNG.standard_normal((2, 200, 4)) + np.array([-50.0, 50.0])[:, None, None]
    real = np.concatenate([left, right])
    half = precision_recall(_RNG.standard_normal((200, 4)) - 50.0, real)
    assert half.precision > 0.85 and 0.35 < half.recall <= 0.5  # one of two modes
    wrong = precision_recall(np.concatenate([real, real + 1000.0]), real)
    assert wrong.precision == pytest.approx(0.5) and wrong.recall == 1.0
    with pytest.raises(ValueError, match="too few"):
        precision_recall(real[:3], real)


def test_classes_of_certain_and_of_undecided_images() -> None:
    certain = classes(np.eye(10)[[0, 0, 1, 1]])
    assert certain.histogram == (2, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    assert certain.entropy == pytest.approx(math.log(2)) and certain.kl_to_uniform == pytest.approx(math.log(5))
    assert certain.sure == 1.0 and certain.score == pytest.approx(2.0)
    undecided = classes(np.full((4, 10), 0.1))
    assert undecided.sure == 0.0 and undecided.score == pytest.approx(1.0)


# --- the classifier


def test_the_classifiers_gradient_by_finite_differences(backend: Backend) -> None:
    """The whole network with dropout on, along random directions, in float64."""
    recipe = Recipe(widths=(20, 15, 12))
    net = Classifier(recipe, backend).network
    twin = net.astype(np.float64)
    x, label, key = _RNG.standard_normal((8, 784)), _RNG.integers(0, 10, 8), DropoutKey(0, 3, 0)
    logits, caches = twin.forward(x, key)
    twin.backward(ops.softmax_cross_entropy_backward(logits, label), caches)
    start, h = twin.parameters.copy(), 1e-6
    for _ in range(3):
        u = _RNG.standard_normal(start.size) / start.size**0.5
        losses = []
        for sign in (1, -1):
            twin.parameters[:] = start + sign * h * u
            losses.append(ops.softmax_cross_entropy_forward(twin.forward(x, key)[0], label))
        assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(float(twin.gradients @ u), rel=1e-5)
    twin.parameters[:] = start


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NPGAN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_classifier_learns_and_comes_back_from_the_cache(cache: Path, backend: Backend) -> None:
    data, told, epochs = _dataset(_TRAIN), [], []
    first = get_classifier(data, Recipe(epochs=12, batch_size=50), backend, told.append, epochs.append)
    test = _TEST[0].reshape(-1, 784) / 127.5 - 1.0
    assert first.accuracy(test.astype(np.float32), _TEST[1]) > 0.8
    assert len(epochs) == 12 and epochs_left(data, Recipe(epochs=12, batch_size=50), backend) == 0
    again = get_classifier(data, Recipe(epochs=12, batch_size=50), backend, told.append, epochs.append)
    assert len(epochs) == 12 and not told
    assert again.network.parameters.tobytes() == first.network.parameters.tobytes()
    assert epochs_left(data, _QUICK, backend) == 2
    assert epochs_left(data._replace(labels=9 - data.labels), Recipe(epochs=12, batch_size=50), backend) == 12
    assert len(list(cache.iterdir())) == 1  # nothing is left of the epochs


class _Stopper:
    """Takes notes of progress, and presses Ctrl-C after ``after`` of them."""

    def __init__(self, after: int) -> None:
        self.lines: list[str] = []
        self.after = after

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if len(self.lines) == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_interrupted_training_of_the_classifier_goes_on(
    cache: Path, tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """After its last whole epoch, to the file of an undisturbed training, byte for byte."""
    data, recipe = _dataset(_TRAIN), Recipe(widths=(30, 20, 16), epochs=4, batch_size=50)
    get_classifier(data, recipe, backend, print, lambda line: None)
    (whole,) = cache.iterdir()
    monkeypatch.setenv("NPGAN_DATA", str(tmp_path / "other"))
    with pytest.raises(KeyboardInterrupt, match=f"{min(after, 3)} of 4 epochs of the classifier are kept"):
        get_classifier(data, recipe, backend, print, _Stopper(after))
    left = 4 - min(after, 3)  # what only the last epoch's end could keep is the classifier itself
    assert epochs_left(data, recipe, backend) == left
    told: list[str] = []
    rest = _Stopper(-1)
    get_classifier(data, recipe, backend, told.append, rest)
    assert [line.split(",")[0] for line in rest.lines] == [f"classifier: epoch {e} of 4" for e in range(5 - left, 5)]
    assert not told
    (file,) = (tmp_path / "other").iterdir()
    assert (file.name, file.read_bytes()) == (whole.name, whole.read_bytes())


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:-9] + b"\x01" + raw[-8:]])
def test_damaged_epochs_are_not_taken_up(cache: Path, backend: Backend, damage: object) -> None:
    data, recipe = _dataset(_TRAIN), Recipe(widths=(30, 20, 16), epochs=3, batch_size=50)
    with pytest.raises(KeyboardInterrupt):
        get_classifier(data, recipe, backend, print, _Stopper(2))
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert epochs_left(data, recipe, backend) == 3
    told, epochs = [], []
    get_classifier(data, recipe, backend, told.append, epochs.append)
    assert len(told) == 1 and file.name in told[0] and len(epochs) == 3


def test_epochs_that_cannot_be_kept(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once; a Ctrl-C then promises nothing."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("NPGAN_DATA", str(tmp_path / "file"))
    told: list[str] = []
    recipe = Recipe(widths=(30, 20, 16), epochs=4, batch_size=50)
    with pytest.raises(KeyboardInterrupt) as stop:
        get_classifier(_dataset(_TRAIN), recipe, backend, told.append, _Stopper(3))
    assert len(told) == 1 and "cannot be kept" in told[0]
    assert "kept" not in str(stop.value)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:-9] + b"\x01" + raw[-8:]])
def test_a_damaged_classifier_is_trained_anew(cache: Path, backend: Backend, damage: object) -> None:
    data, told = _dataset(_TRAIN), []
    first = get_classifier(data, _QUICK, backend, told.append, lambda line: None)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    again = get_classifier(data, _QUICK, backend, told.append, lambda line: None)
    assert again.network.parameters.tobytes() == first.network.parameters.tobytes()
    assert len(told) == 1 and file.name in told[0]


def _forged(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    """A change of the tensors, under a right checksum."""

    def forge(file: Path) -> None:
        tensors = {name: array.copy() for name, array in classifier._read(file).items()}
        change(tensors)
        classifier._write(file, tensors)

    return forge


CACHES: dict[str, Callable[[Path], object]] = {
    "NaN": _forged(lambda tensors: tensors["0.weight"].fill(np.nan)),
    "float64": _forged(lambda tensors: tensors.update({"0.weight": tensors["0.weight"].astype(np.float64)})),
    "a tensor more": _forged(lambda tensors: tensors.update(x=np.zeros(1))),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a dangling link": lambda file: (file.unlink(), file.symlink_to("nowhere")),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("kind", CACHES)
def test_no_cached_classifier_is_a_reason_to_stop(cache: Path, backend: Backend, kind: str) -> None:
    data, told = _dataset(_TRAIN), []
    first = get_classifier(data, _QUICK, backend, told.append, lambda line: None)
    (file,) = cache.iterdir()
    CACHES[kind](file)
    again = get_classifier(data, _QUICK, backend, told.append, lambda line: None)
    assert again.network.parameters.tobytes() == first.network.parameters.tobytes()
    assert "trained anew" in told[0] and file.name in told[0]
    assert len(told) == 1 or (kind == "a folder" and "cannot be cached" in told[1])


@pytest.mark.parametrize("step", [0, 7, 36, -12, 10**9])
def test_epochs_that_no_training_ends_with_are_not_taken_up(cache: Path, backend: Backend, step: int) -> None:
    """600 images in batches of 50 are 12 iterations an epoch, and three epochs are the whole."""
    data, recipe = _dataset(_TRAIN), Recipe(widths=(30, 20, 16), epochs=3, batch_size=50)
    with pytest.raises(KeyboardInterrupt):
        get_classifier(data, recipe, backend, print, _Stopper(2))
    (file,) = cache.iterdir()
    _forged(lambda tensors: tensors["adam.step"].fill(step))(file)
    assert epochs_left(data, recipe, backend) == 3
    told, epochs = [], []
    get_classifier(data, recipe, backend, told.append, epochs.append)
    assert len(told) == 1 and "trained from the start" in told[0] and len(epochs) == 3


@pytest.mark.parametrize("wrong", [-1, 10, np.nan, 0.5])
def test_labels_that_are_no_digits_are_refused(backend: Backend, wrong: float) -> None:
    data = _dataset(_TRAIN)
    labels = data.labels.astype(type(wrong))
    labels[7] = wrong
    with pytest.raises(InputError, match=f"has a label {wrong}: the classifier knows 0 to 9"):
        figures.Judge(data, data._replace(labels=labels), backend, print, print)
    with pytest.raises(InputError, match=f"has a label {wrong}"):
        get_classifier(data._replace(labels=labels), _QUICK, backend, print, print)


@pytest.mark.parametrize(
    "line", ["{", "[" * 100_000, "5", '{"epoch": 1}', '{"epoch": 1, "step": 2, "parzen": NaN, "frechet": 1}']
)
def test_damaged_lines_of_evaluations_are_left_out(tmp_path: Path, line: str) -> None:
    good = '{"epoch": 1, "step": 5, "parzen": 1.5, "frechet": 2}'
    (tmp_path / "evaluation.jsonl").write_bytes(f"{line}\n{good}\n".encode() + b"\xff\n" + good.encode())
    assert read_history(RunFolder(tmp_path)) == [json.loads(good)]


# --- k-means


def test_kmeans_finds_the_middle_of_clusters() -> None:
    middles = 100.0 * np.eye(4, 784, dtype=np.float32)
    images = np.repeat(middles, 50, axis=0) + 0.1 * _RNG.standard_normal((200, 784)).astype(np.float32)
    for seed in range(20):  # a seed that starts in all four clusters
        if len({int(place) // 50 for place in sources.which_real(200, 4, seed)}) == 4:
            break
    centers = sources.kmeans_centers(images, 4, seed, lambda line: None)
    order = centers[:, :4].argmax(axis=1)
    np.testing.assert_allclose(centers, images.reshape(4, 50, 784).mean(axis=1)[order], rtol=1e-4, atol=1e-4)


# --- the command


@pytest.fixture
def run(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one epoch on 600 digits, in a world where the classifier has two epochs."""
    data = tmp_path / "data"
    data.mkdir()
    for prefix, (images, labels) in (("train", _TRAIN), ("t10k", _TEST)):
        write_idx(data / f"{prefix}-images-idx3-ubyte", images)
        write_idx(data / f"{prefix}-labels-idx1-ubyte", labels)
    monkeypatch.setattr(figures, "RECIPE", _QUICK)
    monkeypatch.setattr("npgan.evaluation.command.RECIPE", _QUICK)
    monkeypatch.setattr(callback, "SAMPLES", 150)
    assert main(_train(tmp_path, "--quiet")) == 0
    return tmp_path / "run"


def _train(folder: Path, *more: str) -> list[str]:
    arguments = [
        "train",
        "--backend",
        "numpy",
        "--kernels",
        "reference",
        "--epochs",
        "1",
        "--data-dir",
        str(folder / "data"),
    ]
    return [*arguments, "--out", str(folder / "run"), *more]


def _evaluate(run: Path, *more: str) -> list[str]:
    return ["evaluate", str(run), "--backend", "numpy", "--n", "150", *more]


def test_what_an_evaluation_prints_and_leaves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_evaluate(run, "--seeds", "2")) == 0
    captured = capsys.readouterr()
    rows = ["this run", "real train", "k-means centers", "untrained", "noise"]
    assert max(len(line) for line in captured.out.partition("150 images a row")[2].splitlines()[:-1]) <= 80
    assert "…" not in captured.out.partition("150 images a row")[2]
    for words in (*rows, "150 images a row", "adversarial nets", "225.0 ± 2.0", "same classifier", "ETA"):
        assert words in captured.out
    assert "--train-images 500" in captured.err and "10,000 images, not 150" in captured.err
    values = json.loads((run / "evaluation.json").read_text())
    assert [row["name"] for row in values["rows"]] == rows
    assert [len(row["draws"]) for row in values["rows"]] == [2, 2, 1, 2, 2]
    assert values["n"] == 150 and values["validation"] == [500, 600] and not values["fair"]
    real, noise = values["rows"][1], values["rows"][4]
    assert real["parzen_mean_over_seeds"] > noise["parzen_mean_over_seeds"]
    assert real["draws"][0]["frechet"] < noise["draws"][0]["frechet"]
    assert real["draws"][0]["memory"]["smallest"] > 0.0  # an image is not its own neighbor
    with Image.open(run / "evaluation.png") as picture:
        assert picture.size[0] > 1000


def test_ctrl_c_is_one_line_and_the_next_evaluation_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = report.Steps.step

    def pressed(steps: report.Steps, text: str, cost: float) -> None:
        undisturbed(steps, text, cost)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report.Steps, "step", pressed)
        assert main(_evaluate(run)) == 130
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "1 of 2 epochs of the classifier are kept" in error
    assert not (run / "evaluation.json").exists()
    assert main(_evaluate(run)) == 0
    captured = capsys.readouterr()
    first, *_, last = (line for line in captured.out.splitlines() if "ETA" in line)
    assert first.startswith("1/12 ") and "epoch 2 of 2" in first
    assert last.startswith("12/12 ") and "ETA 0 s" in last


def test_the_eta_weighs_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(report.time, "perf_counter", lambda: now)
    for terminal in (False, True):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=120, color_system=None)
        now = 0.0
        with report.Steps(console, 3, 10.0, False) as steps:
            assert "ETA -" in steps._eta()
            now = 40.0  # longer than rich's own ETA remembers
            steps.step("first", 1.0)
            assert steps._eta() == "ETA 360 s"
            now = 60.0
            assert steps._eta() == "ETA 340 s"
            steps.step("second", 4.0)
            assert steps._eta() == "ETA 60 s"
        assert "2/3" in screen.getvalue() and "ETA 60 s" in screen.getvalue() and "second" in screen.getvalue()


def test_all_steps_cost_together_what_was_said_at_the_start(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[report.Steps] = []
    leave = report.Steps.__exit__
    monkeypatch.setattr(report.Steps, "__exit__", lambda steps, *error: (ends.append(steps), leave(steps, *error))[1])
    assert main(_evaluate(run, "--quiet", "--seeds", "2")) == 0
    (steps,) = ends
    assert steps._done == steps._count and steps._spent == pytest.approx(steps._total)


def test_the_same_seed_gives_the_same_figures(run: Path) -> None:
    rows = []
    for seed in ("0", "0", "1"):
        assert main(_evaluate(run, "--quiet", "--seed", seed)) == 0
        rows.append(json.loads((run / "evaluation.json").read_text())["rows"])
    assert rows[0] == rows[1] != rows[2]


def test_a_fair_run_is_not_told_off(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_train(tmp_path, "--overwrite", "--quiet", "--train-images", "500")) == 0
    assert main(_evaluate(run, "--quiet")) == 0
    assert "--train-images" not in capsys.readouterr().err
    values = json.loads((run / "evaluation.json").read_text())
    assert values["fair"] and values["train_images"] == 500 and values["epoch"] == 1.0


def test_wrong_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and not captured.out
        return captured.err

    assert "no such run folder" in error_of(*_evaluate(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in error_of(*_evaluate(tmp_path / "empty"))
    assert "too few for a covariance" in error_of(*_evaluate(run), "--n", "128")
    assert "at most 500" in error_of(*_evaluate(run), "--n", "501")
    assert "--seeds" in error_of(*_evaluate(run), "--seeds", "0")
    assert "--train-images 601" in error_of(*_train(tmp_path, "--overwrite", "--train-images", "601"))

    other = tmp_path / "other"
    other.mkdir()
    write_idx(other / "train-images-idx3-ubyte", _TRAIN[0][::-1])
    assert "t10k-images" in error_of(*_evaluate(run), "--data-dir", str(other))
    write_idx(other / "t10k-images-idx3-ubyte", _TEST[0])
    assert "not those that the run was trained on" in error_of(*_evaluate(run), "--data-dir", str(other))
    write_idx(other / "train-images-idx3-ubyte", _TRAIN[0])
    assert "no labels" in error_of(*_evaluate(run), "--data-dir", str(other))
    write_idx(other / "t10k-images-idx3-ubyte", np.zeros((200, 32, 32), np.uint8))
    assert "32x32" in error_of(*_evaluate(run), "--data-dir", str(other))


def test_training_does_not_look_at_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "t10k"):
        (tmp_path / "data" / f"{name}-labels-idx1-ubyte").write_bytes(b"damaged")
    assert main(_train(tmp_path, "--overwrite", "--quiet")) == 0
    assert main(["train", "--resume", str(run), "--epochs", "2", "--quiet"]) == 0
    assert main(["inspect", str(run)]) == 0
    assert main(_evaluate(run)) == 2
    assert "train-labels-idx1-ubyte" in capsys.readouterr().err


def test_a_run_whose_name_is_no_utf_8(run: Path, tmp_path: Path) -> None:
    """Files with the name in them are written all the same, and are UTF-8."""
    odd = run.rename(tmp_path / os.fsdecode(b"r\xffn"))
    assert main(_evaluate(odd)) == 0
    assert json.loads((odd / "evaluation.json").read_text(encoding="utf-8"))["run"] == str(odd)
    assert main(["inspect", str(odd), "--html", str(tmp_path / "a.html")]) == 0
    assert "r?n, the step after 5" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_training_evaluates_itself_and_leaves_the_run_as_it_is(run: Path, tmp_path: Path) -> None:
    plain = load(run / "checkpoints" / "step-000000005.safetensors").tensors
    assert main(_train(tmp_path, "--overwrite", "--quiet", "--eval-every", "1")) == 0
    watched = load(run / "checkpoints" / "step-000000005.safetensors").tensors
    assert all(np.array_equal(watched[name], plain[name]) for name in plain)
    more = ("--quiet", "--epochs", "4", "--eval-every", "2")
    assert main(_train(tmp_path, "--overwrite", *more)) == 0
    lines = [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(2, 10), (4, 20)]
    assert all(math.isfinite(line["parzen"]) and line["n"] == 150 for line in lines)
    assert main(_evaluate(run, "--quiet")) == 0  # of the same noise as the last line's
    (same,) = json.loads((run / "evaluation.json").read_text())["rows"][0]["draws"]
    assert lines[-1]["parzen"] == pytest.approx(same["parzen"]["mean"], abs=0.5)
    assert lines[-1]["frechet"] == pytest.approx(same["frechet"], rel=1e-3)
    with Image.open(run / "evaluation-curves.png") as picture:
        assert picture.size[0] > 1000
    assert main(["train", "--backend", "numpy", "--resume", str(run), "--epochs", "6", "--quiet"]) == 0
    assert len((run / "evaluation.jsonl").read_text().splitlines()) == 3
    assert main(_train(tmp_path, "--overwrite", "--quiet")) == 0
    assert not list(run.glob("evaluation*"))
