"""The same training step in PyTorch and in JAX, as fast as each can be made to do it on a CPU. Only ``npgan bench`` uses these.

Same networks, batch, dropout, loss and Adam. D's weights get no gradient in the G step. These report the two losses only;
npgan also reports D's mean outputs and two gradient norms. ``gpu_baselines`` has the same steps on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from npgan.bench.base import DISCRIMINATOR, GENERATOR, IMAGES, Candidate, flops, pairs, pixels
from npgan.config import TrainConfig

CONFIG = TrainConfig()
_SCAN_LENGTH = 10


def make(name: str, batch: int, threads: int) -> Candidate:
    """``torch eager``, ``torch compiled``, ``jax step`` or ``jax scan``."""
    library, variant = name.split()
    return (_torch if library == "torch" else _jax)(variant, batch, threads)


def _batches(batch: int) -> Iterator[np.ndarray]:
    """Endless index vectors (batch,) of a shuffled epoch."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(max(IMAGES // batch, 1) * batch)
        yield from order.reshape(-1, batch)


def _torch(variant: str, batch: int, threads: int) -> Candidate:
    import torch

    torch.set_num_threads(threads)
    images = torch.from_numpy(pixels(max(IMAGES // batch, 1) * batch))
    step, batches = torch_step(images, batch, torch.compile if variant == "compiled" else None), _batches(batch)

    def run() -> tuple[float, float]:
        loss_d, loss_g = step(torch.from_numpy(next(batches)))
        return loss_d.item(), loss_g.item()

    return Candidate(run, flops(batch), f"PyTorch {torch.__version__}, fused Adam, {threads} threads")


def _jax(variant: str, batch: int, threads: int) -> Candidate:
    import jax

    step, state = jax_step(batch)
    images = jax.numpy.asarray(pixels(max(IMAGES // batch, 1) * batch))
    batches = _batches(batch)
    one = jax.jit(step, donate_argnums=0)
    many = jax.jit(lambda s, i, x: jax.lax.scan(lambda s, row: step(s, row, x), s, i), donate_argnums=0)

    def run() -> None:
        nonlocal state
        if variant == "scan":
            state, losses = many(state, np.stack([next(batches) for _ in range(_SCAN_LENGTH)]), images)
        else:
            state, losses = one(state, next(batches), images)
        jax.block_until_ready((state, losses))

    detail = f"JAX {jax.__version__}, jitted{', 10 steps a call' if variant == 'scan' else ''}"
    return Candidate(run, flops(batch), detail, _SCAN_LENGTH if variant == "scan" else 1)


def torch_step(
    images: Any, batch: int, compiler: Callable[[Any], Any] | None, capturable: bool = False
) -> Callable[[Any], tuple[Any, Any]]:
    """A function of indices (B,) int64 that trains one iteration and returns the losses (D, G), on the device of ``images``.

    ``images``: (M, 784) uint8. ``compiler``: torch.compile or one like it, for the two losses with what leads to them.
    ``capturable``: whether Adam's step counter lies on the device, as a CUDA graph needs it.
    """
    import torch
    from torch import nn

    device = images.device

    def network(widths: tuple[int, ...], dropout: bool, last: nn.Module) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:-1], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(CONFIG.leaky_slope, inplace=True)]
            layers += [nn.Dropout(CONFIG.dropout)] * dropout
        return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), last).to(device)

    def adam(net: nn.Sequential, lr: float) -> torch.optim.Adam:
        betas = (CONFIG.beta1, CONFIG.beta2)
        return torch.optim.Adam(net.parameters(), lr=lr, betas=betas, fused=True, capturable=capturable)

    g, d = network(GENERATOR, False, nn.Tanh()), network(DISCRIMINATOR, True, nn.Sigmoid())
    adam_g, adam_d = adam(g, CONFIG.lr_g), adam(d, CONFIG.lr_d)
    loss = nn.BCELoss()
    ones = torch.ones(batch, 1, device=device)
    target_d = torch.cat([ones, torch.zeros(batch, 1, device=device)])

    def d_loss(real: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            fake = g(torch.randn(batch, GENERATOR[0], device=device))
        return loss(d(torch.cat([real.float() / 127.5 - 1.0, fake])), target_d)

    def g_loss() -> torch.Tensor:
        return loss(d(g(torch.randn(batch, GENERATOR[0], device=device))), ones)

    if compiler is not None:
        d_loss, g_loss = compiler(d_loss), compiler(g_loss)

    def step(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        d.train()
        d.requires_grad_(True)
        adam_d.zero_grad(set_to_none=True)
        value_d = d_loss(images[indices])
        value_d.backward()
        adam_d.step()
        d.eval()
        d.requires_grad_(False)
        adam_g.zero_grad(set_to_none=True)
        value_g = g_loss()
        value_g.backward()
        adam_g.step()
        return value_d.detach(), value_g.detach()

    return step


def jax_step(batch: int) -> tuple[Callable[[Any, Any, Any], tuple[Any, Any]], Any]:
    """A pure function (state, indices (B,), images (M, 784) uint8) → (state, losses (D, G)), and the state to start from."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_prng_impl", "rbg")  # XLA's own generator: faster than the default threefry
    keep, slope = 1.0 - CONFIG.dropout, CONFIG.leaky_slope

    def forward(parameters: Any, x: Any, last: Callable[[Any], Any], key: Any = None) -> Any:
        *hidden, (weight, bias) = parameters
        for index, (w, b) in enumerate(hidden):
            x = x @ w + b
            x = jnp.maximum(x, slope * x)
            if key is not None:
                bits = jax.random.bits(jax.random.fold_in(key, index), x.shape, jnp.uint16)
                x = jnp.where(bits < round(CONFIG.dropout * 65536), 0.0, x / keep)
        return last(x @ weight + bias)

    def cross_entropy(p: Any, target: Any) -> Any:
        return -jnp.mean(target * jnp.log(p + 1.1920929e-07) + (1.0 - target) * jnp.log(1.0 - p + 1.1920929e-07))

    def adam(parameters: Any, gradients: Any, moments: Any, t: Any, lr: float) -> tuple[Any, Any]:
        m = jax.tree.map(lambda m, g: CONFIG.beta1 * m + (1.0 - CONFIG.beta1) * g, moments[0], gradients)
        v = jax.tree.map(lambda v, g: CONFIG.beta2 * v + (1.0 - CONFIG.beta2) * g * g, moments[1], gradients)
        rate, unbias = lr / (1.0 - CONFIG.beta1**t), 1.0 / (1.0 - CONFIG.beta2**t)
        new = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v * unbias) + CONFIG.adam_epsilon), parameters, m, v
        )
        return new, (m, v)

    target_d = jnp.concatenate([jnp.ones((batch, 1)), jnp.zeros((batch, 1))])

    def step(state: Any, indices: Any, images: Any) -> tuple[Any, Any]:
        g, d, moments_g, moments_d, t, key = state
        key, key_z, key_d = jax.random.split(key, 3)
        t = t + 1
        z_d, z_g = jax.random.normal(key_z, (2, batch, GENERATOR[0]))
        real = images[indices].astype(jnp.float32) / 127.5 - 1.0
        x = jnp.concatenate([real, forward(g, z_d, jnp.tanh)])
        loss_d, gradients = jax.value_and_grad(lambda d: cross_entropy(forward(d, x, jax.nn.sigmoid, key_d), target_d))(
            d
        )
        d, moments_d = adam(d, gradients, moments_d, t, CONFIG.lr_d)
        loss_g, gradients = jax.value_and_grad(
            lambda g: cross_entropy(forward(d, forward(g, z_g, jnp.tanh), jax.nn.sigmoid), 1.0)
        )(g)
        g, moments_g = adam(g, gradients, moments_g, t, CONFIG.lr_g)
        return (g, d, moments_g, moments_d, t, key), (loss_d, loss_g)

    rng = np.random.default_rng(0)

    def parameters(widths: tuple[int, ...]) -> Any:
        return [
            (jnp.asarray(rng.uniform(-1, 1, (i, o)) * (6.0 / (i + o)) ** 0.5, jnp.float32), jnp.zeros(o))
            for i, o in pairs(widths)
        ]

    g, d = parameters(GENERATOR), parameters(DISCRIMINATOR)
    zeros = lambda tree: (jax.tree.map(jnp.zeros_like, tree), jax.tree.map(jnp.zeros_like, tree))  # noqa: E731
    return step, (g, d, zeros(g), zeros(d), jnp.float32(0), jax.random.key(0))
