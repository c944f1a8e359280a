"""The benchmark: its work is the training step's work, it measures, and what is missing is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from npgan.bench import contestants, job
from npgan.cli import main


def test_an_iteration_is_4_09_gflop() -> None:
    products = contestants.products(128)
    assert round(sum(product.flops for product in products) / 1e9, 2) == 4.09
    names = [product.name for product in products]
    assert "D dx 0" not in names and "G dx 0" not in names  # first layers
    assert not any(name.startswith("D in the G step dW") for name in names)


def test_it_measures_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    flags = ["--only", "npgan reference,products rows", "--batch-sizes", "4", "--rounds", "2", "--calls", "1"]
    assert main(["benchmark", *flags, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "npgan, reference" in printed and "batch 4" in printed and "peak:" in printed
    rows = json.loads(file.read_text())["batch_sizes"]["4"]
    assert len(rows["npgan reference"]["ms"]) == 2
    assert rows["npgan reference"]["peak_mb"] > 10
    assert 0 < rows["products rows"]["min_ms"] <= rows["products rows"]["median_ms"]


def test_a_missing_peer_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contestants.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "numba", None)
    for name, extra in (("jax step", "bench"), ("torch eager", "bench"), ("products columns", "fast")):
        with pytest.raises(contestants.Missing, match=extra):
            contestants.make(name, 4, 1)
    job._show({"jax step": {"missing": "jax is not installed"}})
    assert "missing: JAX, jitted step: jax is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", [["--rounds", "0"], ["--batch-sizes", "0"], ["--only", "tensorflow"], ["--threads", "0"]]
)
def test_mistakes(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *flags]) == 2
    assert flags[0] in capsys.readouterr().err


def test_the_profile_names_every_operation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="the profile is of the fused kernels: pip install 'npgan[fast]'")
    from npgan.bench import profile

    monkeypatch.setattr(profile, "ITERATIONS", 2)
    assert main(["bench", "--profile", "--batch-sizes", "8"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("product (") == 28
    for name in ("adam_update", "dense_leaky_relu_dropout_forward", "scale_pixels", "iteration"):
        assert name in printed
