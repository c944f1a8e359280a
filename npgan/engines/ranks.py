"""The processes that share a run out among them: MPI's ranks, by mpi4py, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npgan.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set by mpiexec of Open MPI, and of MPICH and its relatives
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
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

    def gather(self, mine: np.ndarray, counts: list[int]) -> np.ndarray:
        """Everybody's rows (counts[rank], P) in the order of the ranks, on all of them: a copy, no arithmetic."""
        return mine

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

    def gather(self, mine: np.ndarray, counts: list[int]) -> np.ndarray:
        import numpy as np  # not at the top: its BLAS is set up first

        found = np.empty((sum(counts), mine.shape[1]), mine.dtype)
        self._world.Allgatherv(mine, [found, [count * mine.shape[1] for count in counts]])
        return found

    def collect(self, mine: Any) -> list[Any]:
        return self._world.gather(mine) or []

    def abort(self, status: int) -> None:
        self._world.Abort(status)


def ranks_of_this_run() -> Ranks:
    """Those that mpiexec has started. Raises InputError where it has and MPI cannot be had."""
    return MpiRanks() if launched() > 1 else Ranks()
