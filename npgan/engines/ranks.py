"""The processes that share a run out among them: MPI's ranks, by mpi4py, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from npgan.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set by mpiexec of Open MPI, and of MPICH and its relatives
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
_BLOCK = 1 << 16  # numbers
_FAMILIES = ("OMPI_", "PMI_", "PMIX_", "PMI2_", "MPI_", "HYDI_", "HYDRA_")


def launched(names: tuple[str, ...] = _SIZES) -> int:
    """How many ranks mpiexec has started, as the environment says; 1 without it."""
    given = next((value for name in names if (value := os.environ.get(name, "")).isdecimal()), "1")
    return max(1, int(given))


def launched_here() -> int:
    """Those on this machine."""
    return launched(_LOCAL_SIZES)


def environment_without(environment: Mapping[str, str]) -> dict[str, str]:
    """For a process that is to be no rank, though its parent is one."""
    return {name: value for name, value in environment.items() if not name.startswith(_FAMILIES)}


def _add_rows(rows: np.ndarray, out: np.ndarray) -> None:
    """out = Σ_n rows_n, added from the first on, a block at a time that stays in cache. Shapes: rows (N, P), out (P,)."""
    for start in range(0, out.size, _BLOCK):
        total = out[start : start + _BLOCK]
        total[...] = 0.0
        for row in rows:
            total += row[start : start + _BLOCK]


class Ranks:
    """This process alone: what ``MpiRanks`` does, without anybody to do it with."""

    rank, size = 0, 1
    together = False  # while all ranks are at something that needs them all

    def tell(self, message: Any) -> Any:
        """Rank 0's message, on all ranks."""
        return message

    def tell_array(self, array: np.ndarray) -> None:
        """Rank 0's array, in place on all ranks."""

    def add(self, vector: np.ndarray) -> None:
        """The sum over the ranks, in place on all of them. The same number of ranks adds in the same order."""

    def add_in_order(self, mine: np.ndarray, counts: list[int], out: np.ndarray) -> None:
        """``out`` (P,) becomes the sum of everybody's rows (counts[rank], P), from the first rank's first row on, whatever the
        number of ranks: what goes from one to another is copied, and MPI does no arithmetic."""
        _add_rows(mine, out)

    def collect(self, mine: Any) -> list[Any]:
        """Everybody's object, on rank 0; elsewhere nothing."""
        return [mine]

    def abort(self, status: int) -> None:
        """Ends all ranks, whatever they are at."""


class MpiRanks(Ranks):
    """Those of ``mpiexec``."""

    def __init__(self) -> None:
        """Raises InputError where MPI cannot be had."""
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # the other when there is no MPI library
            raise InputError(
                f"started by mpiexec, but MPI cannot be had: {str(error).splitlines()[0]}: pip install 'npgan[mpi]'"
            ) from None
        self._world = MPI.COMM_WORLD
        self._in_place = MPI.IN_PLACE
        self.rank, self.size = self._world.rank, self._world.size

    def tell(self, message: Any) -> Any:
        return self._world.bcast(message)

    def tell_array(self, array: np.ndarray) -> None:
        self._world.Bcast(array)

    def add(self, vector: np.ndarray) -> None:
        self._world.Allreduce(self._in_place, vector)

    def add_in_order(self, mine: np.ndarray, counts: list[int], out: np.ndarray) -> None:
        """Each rank adds a part of the vector, for all rows; then the parts are gathered."""
        import numpy as np  # not at the top: its BLAS is set up first

        ends = [out.size * rank // self.size for rank in range(self.size + 1)]
        parts = [slice(*pair) for pair in pairwise(ends)]
        widths, own = [part.stop - part.start for part in parts], parts[self.rank]
        sent = np.concatenate([mine[:, part].reshape(-1) for part in parts])
        rows = np.empty((sum(counts), widths[self.rank]), out.dtype)
        self._world.Alltoallv(
            [sent, [len(mine) * width for width in widths]], [rows, [count * widths[self.rank] for count in counts]]
        )
        _add_rows(rows, out[own])
        self._world.Allgatherv(self._in_place, [out, widths])

    def collect(self, mine: Any) -> list[Any]:
        return self._world.gather(mine) or []

    def abort(self, status: int) -> None:
        self._world.Abort(status)


def ranks_of_this_run() -> Ranks:
    """Those that mpiexec has started. Raises InputError where it has and MPI cannot be had."""
    return MpiRanks() if launched() > 1 else Ranks()
