"""PyTorch and JAX on a GPU: the steps of ``baselines``, each started in every way that might be the fastest.

The data set stays on the device and so do the losses, until an epoch's end; every epoch has a new permutation.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgan.bench.base import MNIST, Candidate, Missing, flops, pixels
from npgan.bench.baselines import jax_step, torch_step

TORCH = ("torch eager", "torch compiled", "torch graph", "torch compiled graph")
JAX = {  # the flags of XLA that are swept
    "jax step": "",
    "jax scan": "",
    "jax scan unrolled": "",
    "jax scan cuda graphs": "--xla_gpu_graph_min_graph_size=1 "
    "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,WHILE,DYNAMIC_SLICE_FUSION",
    "jax scan cublas": "--xla_gpu_enable_triton_gemm=false",
    "jax scan three passes": "",
}
_THREE_PASSES = "TF32_TF32_F32_X3"  # what npgan's fp32 matmuls are, as XLA has it
_UNROLLED = 4  # iterations in the body of the loop
_MOST_IN_A_GRAPH = 40  # iterations of PyTorch's in a CUDA graph
_WARM_UP = 11  # PyTorch wants as many before a capture: torch.cuda.CUDAGraph, "whole-network capture"


def make(name: str, batch: int, precision: str) -> Candidate:
    """The baseline ``name`` of TORCH or JAX. Raises Missing."""
    iterations = max(MNIST // batch, 1)  # whole batches only: a captured iteration has one size
    if name in TORCH:
        return _torch(name.removeprefix("torch "), batch, iterations, precision)
    return _jax(name.removeprefix("jax "), batch, iterations, precision, JAX[name])


def _torch(variant: str, batch: int, iterations: int, precision: str) -> Candidate:
    import torch

    if not torch.cuda.is_available():
        raise Missing(f"PyTorch {torch.__version__} sees no GPU: install its CUDA build")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    in_a_graph = max(count for count in range(1, _MOST_IN_A_GRAPH + 1) if iterations % count == 0)
    epoch = torch_epoch(variant, batch, iterations, in_a_graph, torch.from_numpy(pixels(iterations * batch)).cuda())

    def run() -> None:
        epoch()
        torch.cuda.synchronize()

    def launches() -> float | None:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            epoch(in_a_graph)  # of a whole epoch the profiler would take long to tell
            torch.cuda.synchronize()
        kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return len(kernels) / in_a_graph or None  # where the driver lets nobody count, there are none

    detail = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, fused Adam"
    return Candidate(run, flops(batch), detail, iterations, launches)


def torch_epoch(variant: str, batch: int, iterations: int, in_a_graph: int, images: Any) -> Callable[..., Any]:
    """A function that starts an epoch, or its first so many iterations, on the device of ``images``. It returns the losses
    (iterations, 2), which stay there.

    ``variant``: eager, compiled, or on a GPU also graph and compiled graph, where the whole iteration is in a CUDA graph.
    """
    import torch

    graphed = variant.endswith("graph")
    compiler = torch.compile if variant.startswith("compiled") else None
    step = torch_step(images, batch, compiler, capturable=graphed)
    device = images.device
    order = torch.arange(iterations * batch, device=device)
    done = torch.zeros(1, dtype=torch.int64, device=device)  # iterations of this epoch
    losses = torch.zeros(iterations, 2, device=device)

    def iteration() -> None:
        indices = order.view(iterations, batch).index_select(0, done).view(batch)
        losses.index_copy_(0, done, torch.stack(step(indices)).view(1, 2))
        done.add_(1)

    def start() -> None:
        order.copy_(torch.randperm(len(order), device=device))
        done.zero_()

    if not graphed:

        def epoch(count: int = iterations) -> Any:
            start()
            for _ in range(count):
                iteration()
            return losses

        return epoch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            done.zero_()
            iteration()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(in_a_graph):
            iteration()

    def replay(count: int = iterations) -> Any:
        start()
        for _ in range(count // in_a_graph):
            graph.replay()
        return losses

    return replay


def _jax(variant: str, batch: int, iterations: int, precision: str, flags: str) -> Candidate:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or the other candidates find no memory
    import jax

    if jax.default_backend() != "gpu":
        raise Missing(f"JAX {jax.__version__} sees no GPU: pip install 'jax[cuda12]' or 'jax[cuda13]'")
    matmul_precision = {"tf32": "tensorfloat32", "fp32": "float32"}[precision]
    if variant == "scan three passes":
        if precision == "tf32":
            raise Missing("three passes of TF32 are for fp32")
        matmul_precision = _THREE_PASSES
    jax.config.update("jax_default_matmul_precision", matmul_precision)
    epoch = jax_epoch(variant, batch, iterations, pixels(iterations * batch))

    def run() -> None:
        jax.block_until_ready(epoch())

    def launches() -> float | None:
        return jax_launches(run, iterations)

    return Candidate(run, flops(batch), " ".join(f"JAX {jax.__version__} {flags}".split()), iterations, launches)


def jax_epoch(variant: str, batch: int, iterations: int, images: Any) -> Callable[[], Any]:
    """A function that starts an epoch and returns its losses, still on the device.

    ``variant``: "step", a jitted step called for every iteration, or one beginning with "scan", a jitted epoch.
    """
    import jax

    step, state = jax_step(batch)
    images = jax.numpy.asarray(images)
    key = jax.random.key(1)
    unroll = _UNROLLED if variant == "scan unrolled" else 1

    def shuffled(key: Any) -> tuple[Any, Any]:
        key, used = jax.random.split(key)
        return key, jax.random.permutation(used, iterations * batch).reshape(iterations, batch)

    def whole(state: Any, key: Any, images: Any) -> tuple[Any, Any, Any]:
        key, order = shuffled(key)
        state, losses = jax.lax.scan(lambda s, row: step(s, row, images), state, order, unroll=unroll)
        return state, key, losses

    def row_step(state: Any, order: Any, done: Any, images: Any) -> tuple[Any, Any, Any]:
        state, losses = step(state, order[done], images)
        return state, done + 1, losses

    whole = jax.jit(whole, donate_argnums=(0, 1))
    row_step, shuffle = jax.jit(row_step, donate_argnums=(0, 2)), jax.jit(shuffled)

    def one_call() -> Any:
        nonlocal state, key
        state, key, losses = whole(state, key, images)
        return losses

    def many_calls() -> Any:
        nonlocal state, key
        key, order = shuffle(key)
        done, losses = jax.numpy.int32(0), []
        for _ in range(iterations):
            state, done, loss = row_step(state, order, done, images)
            losses.append(loss)
        return losses

    return many_calls if variant == "step" else one_call


def jax_launches(
    run: Callable[[], Any], iterations: int, device: str = "/device:GPU", line: str = "Stream"
) -> float | None:
    """Events on the device's streams while ``run()`` trains, per iteration; None where the profiler shows no such stream."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        [file] = Path(folder).rglob("*.xplane.pb")
        planes = [each for each in jax.profiler.ProfileData.from_file(str(file)).planes if each.name.startswith(device)]
        lines = [each for plane in planes for each in plane.lines if each.name.startswith(line)]
        count = sum(1 for each in lines for _ in each.events)
    return count / iterations if count else None
