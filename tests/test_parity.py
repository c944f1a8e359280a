"""Twenty full steps beside PyTorch's autograd and Adam, from the same weights, noise, masks and images, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import narrow

from npgan.backend import Backend
from npgan.config import TrainConfig
from npgan.data.batches import batch_bounds
from npgan.data.digits import render
from npgan.gan import LATENT_D, LATENT_G, PASS_D, PASS_G, new_state, train_step
from npgan.nn import philox
from npgan.nn.layers import Dropout, DropoutKey
from npgan.nn.ops import BCE_EPSILON

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install 'npgan[parity]'")
torch.set_num_threads(1)  # as NumPy's: see conftest

_IMAGES = render(150, 3)[0].reshape(150, 784)
_BATCH, _STEPS = 32, 20  # four batches of 32 and one of 22 an epoch


class _Peer:
    """The tutorial's step as a PyTorch user writes it: two G forwards, autograd, torch.optim.Adam."""

    def __init__(self, config: TrainConfig, state: Any) -> None:
        self.config = config
        self.g = [torch.tensor(t.copy(), requires_grad=True) for t in state.generator.tensors.values()]
        self.d = [torch.tensor(t.copy(), requires_grad=True) for t in state.discriminator.tensors.values()]
        self.adam_g = torch.optim.Adam(self.g, lr=config.lr_g, betas=(config.beta1, config.beta2), eps=1e-8)
        self.adam_d = torch.optim.Adam(self.d, lr=config.lr_d, betas=(config.beta1, config.beta2), eps=1e-8)

    def generate(self, z: Any) -> Any:
        for weight, bias in zip(self.g[0:6:2], self.g[1:6:2], strict=True):
            z = torch.nn.functional.leaky_relu(z @ weight + bias, 0.2)
        return torch.tanh(z @ self.g[6] + self.g[7])

    def judge(self, x: Any, key: DropoutKey | None) -> Any:
        for site, (weight, bias) in enumerate(zip(self.d[0:6:2], self.d[1:6:2], strict=True)):
            x = torch.nn.functional.leaky_relu(x @ weight + bias, 0.2)
            if key is not None:
                dropout = Dropout(self.config.dropout)
                dropout.site = site
                x = x * torch.tensor(dropout.mask(x.detach().numpy(), key))
        return x @ self.d[6] + self.d[7]

    def loss(self, logits: Any, target: Any) -> Any:
        if self.config.loss == "relativistic":
            (first, second), sign = logits.chunk(2), 1.0 if target[0] > 0.5 else -1.0
            return torch.nn.functional.softplus(-sign * (first - second)).mean()
        if self.config.loss == "bce-logits":
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        p = torch.sigmoid(logits)
        return -(target * torch.log(p + BCE_EPSILON) + (1 - target) * torch.log(1 - p + BCE_EPSILON)).mean()

    def noise(self, step: int, site: int, rows: int) -> Any:
        return torch.tensor(
            philox.normal(
                self.config.seed, philox.Stream.LATENT, step, site, (rows, self.config.latent_dim), np.float64
            )
        )

    def step(self, step: int, pixels: np.ndarray) -> tuple[float, float]:
        config, rows = self.config, len(pixels)
        real = torch.tensor(2.0 * (pixels / 255.0) - 1.0)
        fake = self.generate(self.noise(step, LATENT_D, rows)).detach()
        target = torch.tensor([[1.0 - config.label_smoothing]] * rows + [[0.0]] * rows, dtype=torch.float64)
        images = torch.cat([real, fake]).requires_grad_(True)
        logits = self.judge(images, DropoutKey(config.seed, step, PASS_D))
        loss_d = self.loss(logits, target)
        if config.penalized:  # autograd's own double backward
            (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            squares = (slopes**2).sum(dim=1)
            loss_d = loss_d + config.r1 / 2 * squares[:rows].mean() + config.r2 / 2 * squares[rows:].mean()
        self.adam_d.zero_grad()
        loss_d.backward()
        self.adam_d.step()

        key = DropoutKey(config.seed, step, PASS_G) if config.dropout_in_g_step else None
        pairs = config.loss == "relativistic"
        fake = self.generate(self.noise(step, LATENT_G, rows if pairs else config.batch_size))
        output = self.judge(torch.cat([real, fake]) if pairs else fake, key)
        ones = torch.ones(len(fake), 1).double()
        loss_g = self.loss(output, torch.cat([0 * ones, ones]) if pairs else ones)
        self.adam_g.zero_grad()
        loss_g.backward()
        self.adam_g.step()
        return loss_d.item(), loss_g.item()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "bce-logits", "label_smoothing": 0.1},
        {"dropout_in_g_step": True, "beta1": 0.5, "lr_g": 1e-3},
        {"loss": "bce-logits", "r1": 3.0},
        {"loss": "relativistic", "r1": 0.5, "r2": 2.0, "dropout_in_g_step": True, "beta1": 0.5},
    ],
    ids=["tutorial", "logits", "dropout in G step", "R1", "relativistic, R1 and R2"],
)
def test_twenty_steps(backend: Backend, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    if options and "r2" not in options:
        narrow(monkeypatch)
    config = replace(TrainConfig(dataset="digits", epochs=4, batch_size=_BATCH, seed=11), **options)
    state = new_state(config, backend, np.float64)
    peer = _Peer(config, state)
    for step in range(_STEPS):
        epoch, iteration = divmod(step, 5)
        order = philox.permutation(config.seed, epoch, len(_IMAGES))
        pixels = _IMAGES[order[batch_bounds(iteration, len(_IMAGES), _BATCH)]]
        metrics = train_step(state, pixels, config)
        losses = peer.step(step, pixels)
        np.testing.assert_allclose([metrics.loss_d, metrics.loss_g], losses, rtol=1e-10)
    assert state.step == _STEPS
    for ours, theirs in ((state.generator, peer.g), (state.discriminator, peer.d)):
        for (name, tensor), other in zip(ours.tensors.items(), theirs, strict=True):
            if config.loss == "relativistic" and tensor.size == 1:
                continue  # D's last bias falls out of every difference: Adam makes steps of the rounding of its gradient 0
            error = np.linalg.norm(tensor - other.detach().numpy()) / np.linalg.norm(tensor)
            assert error < 1e-10, f"{name}: relative error {error:.1e}"
            np.testing.assert_allclose(tensor, other.detach().numpy(), rtol=1e-10, atol=1e-10 * np.abs(tensor).max())
