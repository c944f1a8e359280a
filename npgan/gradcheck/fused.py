"""Fused float32 kernels against the plain maths in float64, on the same parameters, inputs and masks.

A float32 holds 24 bits, so each operation may err by half an ulp (2⁻²⁴ of its result), and a sum of K terms by about √K of
those, in whatever order it is added up. Fused kernels add in another order than NumPy: they cannot agree with it to the bit,
but must be as close to the float64 result as plain float32 is. A wrong formula is off by thousands of ulp, or by millions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from npgan import gan as training
from npgan.backend import Array
from npgan.config import TrainConfig
from npgan.engines import REFERENCE, Kernels
from npgan.gradcheck.check import ULP, FormulaCheck
from npgan.gradcheck.maths import ADAM, RATE, SLOPE, adam_formula
from npgan.gradcheck.nets import random_key, randomised
from npgan.nn.layers import Dense, Dropout, LeakyReLU, Sigmoid, Tanh
from npgan.nn.network import IMAGE_PIXELS, Sequential

TOLERANCE = 256 * ULP  # √784, the longest sum, is 28; several such sums follow one another


def fused_checks(rng: np.random.Generator, kernels: Kernels) -> Iterator[FormulaCheck]:
    """Both gradient functions and Adam, with ``kernels`` and with the reference in float32. For NumPy arrays."""
    names = list(dict.fromkeys([REFERENCE.name, kernels.name]))
    available = {REFERENCE.name: REFERENCE, kernels.name: kernels}
    rows, latent = 6, 8
    g, d = _networks(latent, np.float64, REFERENCE)
    for net in (g, d):
        randomised(net, rng)
        net.parameters[...] = net.parameters.astype(np.float32)  # float32 and float64 then start from the same numbers
    images = rng.uniform(-1.0, 1.0, (2 * rows, IMAGE_PIXELS)).astype(np.float32)
    z = rng.normal(size=(rows, latent)).astype(np.float32)
    target = np.repeat([1.0, 0.0], rows).reshape(2 * rows, 1)
    key = random_key(rng)

    def gradients(dtype: Any, chosen: Kernels) -> dict[str, Array]:
        g32, d32 = _networks(latent, dtype, chosen)
        g32.parameters[...], d32.parameters[...] = g.parameters, d.parameters
        loss = training.loss_of(TrainConfig(), chosen)
        room = d32.allocate(2 * rows)
        training.discriminator_gradients(d32, loss, images.astype(dtype), target.astype(dtype), key, room)
        found = {f"D {name}": tensor.copy() for name, tensor in d32.gradient_tensors.items()}
        fakes, caches = g32.forward(z.astype(dtype))
        training.generator_gradients(g32, d32, loss, fakes, caches, np.ones((rows, 1), dtype))
        return found | {f"G {name}": tensor for name, tensor in g32.gradient_tensors.items()}

    grad, m = (rng.normal(size=1000).astype(np.float32) for _ in range(2))
    v = rng.uniform(0.1, 1.0, 1000).astype(np.float32)

    for name in names:
        chosen = available[name]

        def compare(chosen: Kernels = chosen) -> dict[str, tuple[Array, Array]]:
            exact, found = gradients(np.float64, REFERENCE), gradients(np.float32, chosen)
            return {tensor: (found[tensor], exact[tensor]) for tensor in exact}

        def compare_adam(chosen: Kernels = chosen) -> dict[str, tuple[Array, Array]]:
            change, exact_m, exact_v = adam_formula(
                grad.astype(np.float64), m.astype(np.float64), v.astype(np.float64), 5, *ADAM
            )
            param, got_m, got_v = np.zeros_like(grad), m.copy(), v.copy()
            chosen.chains.adam_update(param, grad, got_m, got_v, 5, *ADAM)
            return {"m": (got_m, exact_m), "v": (got_v, exact_v), "change": (param, change)}

        op = "kernels.stages.Stage.backward" if chosen.name == "fused" else "networks.Sequential.backward"
        adam_op = f"kernels.{'cpu' if chosen.name == 'fused' else 'reference'}.adam_update"
        yield FormulaCheck("kernels", op, compare, f"{name} float32", TOLERANCE)
        yield FormulaCheck("kernels", adam_op, compare_adam, f"{name} float32", TOLERANCE)


def _networks(latent: int, dtype: Any, kernels: Kernels) -> tuple[Sequential, Sequential]:
    """Small networks with every chain that has a kernel. Widths are multiples of 8, as fused dropout wants them."""
    d: list[Any] = [Dense(IMAGE_PIXELS, 16), LeakyReLU(SLOPE), Dropout(RATE, 0)]
    d += [Dense(16, 8), LeakyReLU(SLOPE), Dropout(RATE, 1), Dense(8, 1), Sigmoid()]
    g: list[Any] = [Dense(latent, 16), LeakyReLU(SLOPE), Dense(16, IMAGE_PIXELS), Tanh()]
    return Sequential(g, latent, dtype, kernels=kernels), Sequential(d, IMAGE_PIXELS, dtype, kernels=kernels)
