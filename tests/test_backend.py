"""Which backend is taken, why, and what is said when CuPy cannot be had."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npgan import backend
from npgan.cli import main
from npgan.errors import InputError


def _fake_cupy(devices: int, failure: Exception | None = None) -> Any:
    def zeros(shape: tuple[int, int], dtype: Any) -> Any:
        if failure is not None:
            raise failure
        return np.zeros(shape, dtype)

    runtime = SimpleNamespace(getDeviceCount=lambda: devices, getDeviceProperties=lambda number: {"name": b"Fake GPU"})
    cuda = SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0))
    return SimpleNamespace(cuda=cuda, zeros=zeros, float32=np.float32, __version__="14.2.0")


def test_numpy_when_asked_for() -> None:
    chosen = backend.select("numpy")
    assert (chosen.name, chosen.xp) == ("numpy", np)
    assert "NumPy" in chosen.device
    assert chosen.to_device(array := np.ones(3)) is array
    chosen.synchronize()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "not installed: pip install 'npgan[cuda12]'"),
        (_fake_cupy(0), "sees no GPU"),
        (
            _fake_cupy(1, RuntimeError("CUDA driver version is insufficient\nfor this runtime")),
            "driver version is insufficient",
        ),
        *(
            (_fake_cupy(1, failure), "not all of CUDA's libraries")
            for failure in (
                RuntimeError("Failed to find CUDA headers.\nPlease install"),
                RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: libnvrtc.so.12: cannot open shared object"),
                ImportError("libcublas.so.12: cannot open shared object file: No such file or directory"),
            )
        ),
    ],
)
def test_without_a_usable_gpu(monkeypatch: pytest.MonkeyPatch, module: Any, words: str) -> None:
    if module is None:
        monkeypatch.setattr(sys, "path", [])  # CuPy may be installed here: then it is made impossible to find
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(InputError, match="--backend cupy") as caught:
        backend.select("cupy")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    fallback = backend.select("auto")
    assert fallback.name == "numpy"
    assert words in fallback.reason


def test_a_working_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", _fake_cupy(1))
    for name in ("auto", "cupy"):
        chosen = backend.select(name)
        assert chosen.name == "cupy"
        assert chosen.device == "Fake GPU, CuPy 14.2.0"


def test_bad_choices() -> None:
    with pytest.raises(InputError, match="--backend"):
        backend.select("torch")
    with pytest.raises(InputError, match="--precision tf32 needs a GPU"):
        backend.select("numpy", "tf32")


def test_array_module() -> None:
    assert backend.array_module(np.ones(2)) is np
    assert backend.to_numpy(array := np.ones(2)) is array


def test_evaluation_is_not_done_in_tf32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--precision", "tf32", "--eval-every", "1", "--dataset", "digits", "--out", str(tmp_path / "run")]
    assert main(["train", *flags]) == 2
    assert "--eval-every measures in float32" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", ["a file", "no room"])
def test_cupy_compiles_in_memory_where_it_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """CuPy does not even load where it cannot make its cache folder."""
    folder = tmp_path / "cache"
    if fault == "a file":
        folder.touch()
    else:
        monkeypatch.setattr(backend.tempfile, "TemporaryFile", _no_room)
    monkeypatch.setitem(sys.modules, "cupy", _fake_cupy(1))
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(folder))
    chosen = backend.select("auto")
    assert chosen.name == "cupy" and os.environ["CUPY_CACHE_IN_MEMORY"] == "1"
    assert os.path.isdir(os.environ["CUPY_CACHE_DIR"])
    assert f"CuPy's kernels cannot be kept in {folder}" in chosen.reason and "in memory" in chosen.reason


def _no_room(dir: str) -> None:
    raise OSError(28, "No space left on device")
