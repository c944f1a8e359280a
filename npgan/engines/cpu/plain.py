"""``gemm.Gemm``'s methods by BLAS's matmuls and plain loops: for processors that ``gemm`` is not written for, such as ARM.

BLAS has the threads; the loops have one, so that the two do not keep the cores from each other.
"""

from __future__ import annotations

import numpy as np

from npgan.engines.cpu.blas import Blas
from npgan.engines.cpu.epilogues import ADAM, MASK, NO_MASK, NO_ROWS, Mask, activation, adam, adam_arrays, slopes_alone
from npgan.engines.cpu.pool import Pool, shared
from npgan.engines.schedule import Parameters
from npgan.nn.layers import Dense

_ADAM_PIECE = 1 << 14  # numbers


class PlainGemm:
    """``gemm(a, b, out)``: a·b into ``out``; the other methods do what follows too."""

    sums: str  # what decides the order of sums
    recordable = False

    def __init__(self, blas: Blas) -> None:
        self.pool, self._blas = Pool(1), blas
        self.sums = blas.sums()

    def describe(self) -> str:
        """For the run's header."""
        return self._blas.describe()

    def __call__(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        np.matmul(a, b, out=out)

    def activation(
        self, x: np.ndarray, layer: Dense, y: np.ndarray, kind: int, slope: float = 0.0,
        dydz: np.ndarray = NO_ROWS, mask: Mask = NO_MASK,
    ) -> None:  # fmt: skip
        """y = f(x·W + b). Shapes: x (N, I), y (N, O), all by columns."""
        np.matmul(x, layer.weight, out=y)
        _activation(self.pool.control, 1, kind, y.T, layer.bias, slope, dydz.T, *mask)

    def slopes(
        self, dz: np.ndarray, layer: Dense, out: np.ndarray, kind: int, y: np.ndarray, slope: float = 0.0
    ) -> None:
        """out = (dz·Wᵀ)∘∂y/∂z. Shapes: dz (N, O), out and y (N, I), all by columns."""
        np.matmul(dz, layer.weight.T, out=out)
        slopes_alone(self.pool, kind, out.T, y.T, slope)

    def update(self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None, learn: bool) -> None:
        """dW = xᵀ·dz, db = Σ_n c_n·dz_n and, to ``learn``, Adam."""
        np.matmul(x.T, dz, out=p.layer.dweight)
        p.layer.dbias[...] = dz.sum(axis=0) if c is None else c.T[0] @ dz
        if learn:
            self.adam(p)

    def adam(self, p: Parameters) -> None:
        """The part of ``update`` that reads ``p.gradient``."""
        _adam(self.pool.control, p.squares.size, *adam_arrays(p))

    def partial_sums(self, layer: Dense) -> int:
        """The pieces of ``adam``."""
        return -(-(layer.in_features + 1) * layer.out_features // _ADAM_PIECE)


@shared(f"void(int64, float32[:, :], float32[::1], float32, float32[:, :], {MASK})")
def _activation(piece, thread, kind, z, bias, slope, dydz, scale, threshold, done, counter):  # type: ignore[no-untyped-def]
    activation(kind, z, 0, z.shape[0], bias, slope, dydz, scale, threshold, done, counter)


@shared(f"void({ADAM})")
def _adam(piece, thread, param, grad, m, v, constants, average, squares):  # type: ignore[no-untyped-def]
    first, last = piece * _ADAM_PIECE, min((piece + 1) * _ADAM_PIECE, param.size)
    squares[piece] = adam(first, last, param, grad[first:last], m, v, constants, average)
