"""Every CUDA kernel compiles to machine code, by NVRTC through CuPy: no GPU and no driver are needed for that."""

from __future__ import annotations

import functools
import re

import pytest

from npgan.engines.cuda.device import DESIGN, kernel_names, options, source

pytest.importorskip("cupy", reason="needs CuPy's compiler: pip install 'npgan[nvrtc]'")


@functools.cache
def _compile(architecture: str, passes: int) -> bytes:
    from cupy.cuda import compiler
    from cupy_backends.cuda.libs import nvrtc

    try:
        supported = nvrtc.getSupportedArchs()
    except Exception as problem:  # whatever the loader raises where libnvrtc is missing
        pytest.skip(f"NVRTC does not load ({problem}): pip install 'npgan[nvrtc]'")
    if int(architecture[3:]) not in supported:
        pytest.skip(f"this NVRTC does not know {architecture}")
    cubin, _ = compiler._NVRTCProgram(source(), "step.cu", method="cubin").compile(_options(architecture, passes))
    return bytes(cubin)


def _options(architecture: str, passes: int) -> tuple[str, ...]:
    """Those of ``Gpu.compile``, and those that CuPy adds."""
    added = (f"-arch={architecture}", "-ftz=true", "--device-as-default-execution-space")
    return (*options(passes, DESIGN), *added)


@pytest.mark.parametrize(
    ("architecture", "passes"),
    [("sm_90", 3), ("sm_90", 1), ("sm_80", 3), ("sm_75", 0), ("sm_70", 0)],
)
def test_every_kernel_compiles_to_a_cubin(architecture: str, passes: int) -> None:
    cubin = _compile(architecture, passes)
    assert cubin.startswith(b"\x7fELF")
    for name in kernel_names(int(architecture[3:])):
        assert f".text.{name}\0".encode() in cubin, name


def test_the_source_can_be_written_in_any_encoding() -> None:
    assert source().isascii()


def test_a_mistake_does_not_compile() -> None:
    from cupy.cuda import compiler

    _compile("sm_90", 3)  # skips where there is no compiler
    wrong = source().replace("*step += 1;", "*steps += 1;")
    with pytest.raises(compiler.CompileException, match="steps"):
        compiler._NVRTCProgram(wrong, "step.cu", method="cubin").compile(_options("sm_90", 3))


def test_no_register_spills(capfd: pytest.CaptureFixture[str]) -> None:
    """ptxas' report: numbers in a thread's own slow memory would be the first sign of a kernel that is too big."""
    from cupy.cuda import compiler
    from cupy_backends.cuda.libs import nvrtc

    _compile("sm_90", 3)
    program = compiler._NVRTCProgram(source(), "step.cu", method="cubin")
    program.compile((*_options("sm_90", 3), "--ptxas-options=-v"))
    report = nvrtc.getProgramLog(program.ptr) + capfd.readouterr().err
    spills = re.findall(r"(\d+) bytes spill stores", report)
    assert len(spills) >= len(kernel_names())  # functions that are not inlined have a line too
    assert set(spills) == {"0"}
