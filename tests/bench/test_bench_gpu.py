"""The benchmark on a GPU, as far as a CPU can show it: baselines train, the arithmetic is right, what is missing is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npgan.backend import Backend
from npgan.bench import command, gpu, gpu_baselines, worker
from npgan.bench.base import Missing, pixels
from npgan.cli import main
from npgan.config import TrainConfig

_BATCH, _ITERATIONS = 16, 12


def test_pytorchs_epoch_trains() -> None:
    torch = pytest.importorskip("torch", reason="a baseline of the benchmark: pip install 'npgan[bench]'")
    torch.manual_seed(0)
    images = torch.from_numpy(pixels(_BATCH * _ITERATIONS))
    epoch = gpu_baselines.torch_epoch("eager", _BATCH, _ITERATIONS, 1, images)
    first, second = epoch().clone(), epoch().clone()
    assert first.shape == (_ITERATIONS, 2) and torch.isfinite(first).all() and torch.isfinite(second).all()
    assert first[0, 0] == pytest.approx(np.log(2), abs=0.1)  # before it has learned, D says ½
    assert second[-1, 0] < 0.45 < first[:, 0].mean()  # and then it tells noise from images


def test_all_of_jaxs_epochs_train_alike() -> None:
    pytest.importorskip("jax", reason="a baseline of the benchmark: pip install 'npgan[bench]'")
    found = {}
    for variant in ("step", "scan", "scan unrolled"):
        epoch = gpu_baselines.jax_epoch(variant, _BATCH, _ITERATIONS, pixels(_BATCH * _ITERATIONS))
        losses = [np.array(epoch()) for _ in range(2)]
        found[variant] = np.stack([each if each.shape[0] == _ITERATIONS else each.T for each in losses])
    assert found["scan"][0, 0, 0] == pytest.approx(np.log(2), abs=0.1)
    assert found["scan"][1, -1, 0] < 0.45 < found["scan"][0, :, 0].mean()
    for variant in ("step", "scan unrolled"):
        np.testing.assert_allclose(found[variant][0], found["scan"][0], rtol=1e-2)  # same keys, so same noise and order


def test_launches_of_jax_are_counted_in_its_profile() -> None:
    jax = pytest.importorskip("jax", reason="a baseline of the benchmark: pip install 'npgan[bench]'")
    run = jax.jit(lambda: jax.numpy.zeros(3) + 1)
    assert gpu_baselines.jax_launches(run, 1) is None  # no stream of a GPU
    assert gpu_baselines.jax_launches(run, 1, device="/host:CPU", line="")


def test_baselines_without_a_gpu_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="a baseline of the benchmark: pip install 'npgan[bench]'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in gpu_baselines.TORCH:
        with pytest.raises(Missing, match="PyTorch .* sees no GPU"):
            worker.make(f"gpu fp32 {name}", 128, 1)
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: None)
    for name in gpu_baselines.JAX:
        with pytest.raises(Missing, match="jax is not installed"):
            worker.make(f"gpu tf32 {name}", 128, 1)


def test_jaxs_matmuls_have_the_precision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax", reason="a baseline of the benchmark: pip install 'npgan[bench]'")
    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gpu_baselines, "jax_epoch", lambda variant, batch, iterations, images: lambda: None)
    with jax.default_matmul_precision("default"):
        monkeypatch.setattr(jax.config, "update", lambda name, value: asked.append((name, value)))
        for precision, name in (("tf32", "jax scan"), ("fp32", "jax scan"), ("fp32", "jax scan three passes")):
            gpu_baselines.make(name, 60_000, precision)
        with pytest.raises(Missing, match="for fp32"):
            gpu_baselines.make("jax scan three passes", 60_000, "tf32")
    values = ("tensorfloat32", "float32", "TF32_TF32_F32_X3")
    assert asked == [("jax_default_matmul_precision", value) for value in values]
    for value in values:
        with jax.default_matmul_precision(value):  # JAX knows all of them
            pass


def test_an_iteration_is_30_launches(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.launches(backend, TrainConfig(dataset="digits"), multiprocessors=132) == 30


def _rows() -> dict[str, dict[str, Any]]:
    return {
        "npgan fused": {"median_ms": 0.1, "min_ms": 0.09, "ratio": 1.0, "launches": 32},
        "torch graph": {"median_ms": 0.4, "min_ms": 0.3, "ratio": 4.0, "launches": None},
        "jax scan": {"missing": "jax is not installed"},
        "matmul peak": {"median_ms": 20.0, "min_ms": 20.0, "gflops": 50_000.0},
        "copy peak": {"median_ms": 0.5, "min_ms": 0.5, "gflops": 0.0},
    }


def test_floors_and_shares() -> None:
    rows = _rows()
    floors = gpu.add_shares(rows, 128)
    assert floors["matmuls"] == pytest.approx(4.09e9 / 50e12 * 1e6, rel=1e-3)
    assert floors["adam"] == pytest.approx(6 * 4 * (1_486_352 + 1_460_225) / (2 * 2**30 / 0.5e-3) * 1e6)
    assert rows["npgan fused"]["s_per_100_epochs"] == pytest.approx(100 * 469 * 0.1e-3)
    assert rows["torch graph"]["of_floors"] == pytest.approx(sum(floors.values()) / 400)
    assert "median_us" not in rows["matmul peak"]


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def measure(
        workers: Any, rounds: int, calls: int, base: str, peak: str, patience: float
    ) -> dict[str, dict[str, Any]]:
        asked.append((rounds, calls, base, peak, patience))
        prefix = base.removesuffix("npgan fused")
        return {prefix + name: row for name, row in _rows().items()}

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "select", lambda name: Backend("cupy", np, "a GPU", "a test"))
    file = tmp_path / "bench.json"
    flags = ["--rounds", "2", "--patience", "50", "--json", str(file)]
    assert main(["bench", "--backend", "cupy", *flags]) == 0
    assert asked == [(2, 3, f"gpu {p} npgan fused", f"gpu {p} matmul peak", 50) for p in ("fp32", "tf32")]
    printed = capsys.readouterr().out
    for line in (
        "tf32, batch 128",
        "floors: matmuls 81.8 µs",
        "missing: JAX, epoch in lax.scan: jax is not installed",
    ):
        assert line in printed
    [fused] = [line.split() for line in printed.split("tf32, batch")[1].splitlines() if line.startswith("npgan, fused")]
    assert fused[4:] == ["100.0", "90.0", "1.00", "4.69", "32", "98%"]
    report = json.loads(file.read_text())["precisions"]["tf32"]["128"]
    assert report["candidates"]["torch graph"]["median_us"] == 400 and report["floors_us"]["matmuls"] > 81


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--backend", "cupy", "--only", "tensorflow"], "--only tensorflow: must be among npgan fused"),
        (["--backend", "cupy", "--precisions", "fp16"], "--precisions fp16: must be among fp32, tf32"),
        (["--backend", "cupy", "--profile"], "CuPy is not installed"),
        (["--precisions", "tf32"], "--precisions needs a GPU"),
        (["--backend", "cupy"], "CuPy is not installed"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["bench", *flags]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line
