"""Every CUDA kernel compiles to machine code, by NVRTC through CuPy: no GPU and no driver are needed for that."""

from __future__ import annotations

import pytest
from ptx.emulator import compile_ptx, missing
from ptx.machine_code import compile_cubin, problems

from npgan.engines.cuda.device import source

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "passes"), [(90, 3), (80, 1), (75, 0)])
def test_every_kernel_compiles_without_spilling_registers(architecture: int, passes: int) -> None:
    """Numbers in a thread's own slow memory would be the first sign of a kernel that is too big."""
    compiled = compile_cubin(architecture, passes)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert problems(compiled, architecture) == []


def test_the_source_can_be_written_in_any_encoding() -> None:
    assert source().isascii()


def test_a_mistake_does_not_compile() -> None:
    from cupy.cuda import compiler

    wrong = source(("math.cuh",)) + "__global__ void kernel(u32* step) { *steps += 1; }"
    with pytest.raises(compiler.CompileException, match="steps"):
        compile_ptx(wrong, 90, ())
