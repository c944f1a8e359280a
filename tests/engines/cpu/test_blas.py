"""How the matrix products are set up before NumPy is imported: in new processes, because it is read once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from npgan.engines.cpu import blas
from npgan.errors import InputError

_ROOT = Path(__file__).resolve().parents[3]
_ZEN_5 = blas._AVX512_FLAGS | {"AuthenticAMD", "avx2", "fma"}


def _chosen(flags: set[str], call: str = "blas.prepare()", environment: dict[str, str] | None = None) -> list[str]:
    """The reason and the variables for threads and core that ``call`` leaves on a processor with these flags."""
    code = (
        "import os, sys\n"
        "from npgan.engines.cpu import blas\n"
        f"blas._cpu_flags = lambda: {flags!r}\n"
        f"found = {call}\n"
        "assert 'numpy' not in sys.modules\n"
        "print(found.reason, os.environ.get('OPENBLAS_CORETYPE'), os.environ['OPENBLAS_NUM_THREADS'], sep='\\n')\n"
    )
    plain = {name: value for name, value in os.environ.items() if "BLAS" not in name and "OMP" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env=plain | (environment or {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_an_avx512_processor_of_amd_gets_its_core() -> None:
    reason, core, threads = _chosen(_ZEN_5)
    assert "--blas-core default" in reason
    assert (core, threads) == ("SkylakeX", str(blas.available_cores()))


@pytest.mark.parametrize("missing", ["avx512bw", "AuthenticAMD"])
def test_other_processors_are_left_to_openblas(missing: str) -> None:
    assert _chosen(_ZEN_5 - {missing})[:2] == ["chosen by OpenBLAS", "None"]


def test_the_users_own_setting_wins_and_a_flag_wins_over_it() -> None:
    environment = {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "3"}
    reason, *rest = _chosen(_ZEN_5, environment=environment)
    assert rest == ["Haswell", "3"] and reason == "OPENBLAS_CORETYPE is set; faster here: --blas-core SkylakeX"
    other = {**environment, "OPENBLAS_CORETYPE": "SkylakeX"}
    assert _chosen(_ZEN_5, environment=other)[0] == "OPENBLAS_CORETYPE is set"
    assert _chosen(_ZEN_5 - {"avx512bw"}, environment=environment)[0] == "OPENBLAS_CORETYPE is set"
    assert _chosen(_ZEN_5, "blas.prepare('default')", environment)[1:] == ["Haswell", "3"]
    assert _chosen(_ZEN_5, "blas.prepare('Zen', 1)", environment) == ["asked for by --blas-core", "Zen", "1"]
    assert _chosen(_ZEN_5, "blas.prepare('default')")[1] == "None"


def test_nothing_is_promised_once_numpy_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy  # noqa: F401

    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(blas, "_cpu_flags", lambda: _ZEN_5)
    before = dict(os.environ)
    assert "NumPy was imported" in blas.prepare().reason
    assert dict(os.environ) == before
    with pytest.raises(InputError, match="--blas-core"):
        blas.prepare("SkylakeX")


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_thread_counts_that_cannot_be_meant(threads: int) -> None:
    with pytest.raises(InputError, match="--threads"):
        blas.prepare(threads=threads)


def test_the_header_says_what_runs() -> None:
    shown = blas.Blas(2, "because").describe()
    assert "2 threads" in shown
    assert "because" in shown or "no OpenBLAS seen" in shown
    assert blas.Blas(1, "").describe().endswith("1 thread")


def test_a_core_that_would_crash_or_is_unknown_is_refused() -> None:
    """OpenBLAS takes an unknown name in silence, and a core for another processor ends with SIGILL."""
    for flags, core, said in (
        ({"avx2", "fma"}, "SkylakeX", r"--blas-core SkylakeX: this processor lacks avx512bw, avx512cd"),
        (_ZEN_5, "Skylake", r"--blas-core must be auto, default or one of .*SkylakeX.*, got 'Skylake'"),
    ):
        with pytest.raises(InputError, match=said):
            blas._prepare_core(core, flags)
