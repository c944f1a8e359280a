"""The threads of the fused kernels: a kernel's pieces are claimed one by one by whichever thread is free.

A kernel is written for one piece: ``kernel(piece, thread, *arguments)``. What ``shared`` makes of it is called with the
pool's control block and the number of pieces: ``kernel(pool.control, pieces, *arguments)``. The caller works too, and
returns when every piece is done. A thread that another program holds up keeps one piece from the others, no more. One that
finds nothing to do soon sleeps, so that it does not take the core from who has work.

Which thread does a piece changes from call to call: a piece must write the same whoever does it. ``thread`` is for scratch
memory. A call takes about a microsecond, waking a thread that sleeps some ten.

Calls can be recorded and replayed, as a GPU's are in a CUDA graph. Between two calls the interpreter needs 10 to 100 µs, as
kernels that use the whole cache leave nothing there of its own; between two that are replayed nothing happens.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, sigutils, types
from numba.extending import intrinsic

from npgan.engines.cpu.jit import compiled, inlined

_SPINS = 5000  # looks of a thread for more work before it sleeps: about 100 µs

# The control block: int64 on cache lines of their own, as several threads write them at once.
_LINE = 8
_TICKET = 0  # the call's number, and in the lower half how many of its pieces nobody has claimed
_UNDONE = 1 * _LINE  # pieces of this call that are not done
_KERNEL = 2 * _LINE  # the call: address of its code, that of its arguments, their bytes, the number of its pieces
_STOP = 3 * _LINE  # 1: the threads end; then their number
_RECORD = 4 * _LINE  # address of what calls are recorded in, or 0; its words, and those used
_SLEEPERS = 5 * _LINE  # for each thread, the caller first: whether it sleeps, and the lock that it sleeps on
_HALF = np.int64(32)
_LOWER = np.int64((1 << 32) - 1)

_CALL = 4  # words of a recorded call, its arguments come behind
_ROOM = 1 << 20  # words for recorded calls, of which only those used take memory: a call has about a hundred

_INT, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()
_KERNEL_TYPE = ir.FunctionType(ir.VoidType(), [_INT, _INT, _BYTES])
_PAUSE_TYPE = ir.FunctionType(ir.VoidType(), [])
_intrinsic: Any = intrinsic
_CONTROL = types.int64[::1]

# Python's own locks; a thread that waits for one sleeps in the kernel of the system
_acquire: Any = types.ExternalFunction("PyThread_acquire_lock", types.int32(types.intp, types.int32))
_release: Any = types.ExternalFunction("PyThread_release_lock", types.void(types.intp))


class Pool:
    """``threads`` of them, the caller's counted. They end with the pool."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.control = np.zeros(_SLEEPERS + threads * _LINE, np.int64)
        self.control[_STOP + 1] = threads
        locks = [_lock() for _ in range(threads)]
        self.control[_SLEEPERS + 1 :: _LINE] = locks
        workers = [
            threading.Thread(target=_work, args=(self.control, number), name=f"npgan kernels {number}", daemon=True)
            for number in range(1, threads)
        ]
        for worker in workers:
            worker.start()
        self._end = weakref.finalize(self, _end, self.control, workers, locks)

    def close(self) -> None:
        """Ends the threads."""
        self._end()

    def record(self, launches: Callable[[], None]) -> np.ndarray:
        """Does ``launches``, and returns the calls of kernels in it, for ``replay``.

        What is done in it without the pool is not recorded. Arguments are: numbers by value, arrays by their address, so that
        these must live as long as the recording.
        """
        calls = np.empty(_ROOM, np.int64)
        self.control[_RECORD : _RECORD + 3] = calls.ctypes.data, _ROOM, 0
        try:
            launches()
        finally:
            self.control[_RECORD] = 0
        used = int(self.control[_RECORD + 2])
        if used > _ROOM:
            raise RuntimeError(f"there are more than {_ROOM} words of calls to record")
        return calls[:used].copy()

    def replay(self, recording: np.ndarray) -> None:
        """The calls again, one after the other."""
        _replay(self.control, recording)


def _lock() -> int:
    """A lock that is taken."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    lock = allocate()
    ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(lock), 1)
    return int(lock)


def _end(control: np.ndarray, workers: list[threading.Thread], locks: list[int]) -> None:
    _stop(control)
    for worker in workers:
        worker.join()
    for lock in locks:
        ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(lock))
        ctypes.pythonapi.PyThread_free_lock(ctypes.c_void_p(lock))


def shared(signature: Any) -> Callable[[Any], Any]:
    """Compiles a kernel ``(piece, thread, *arguments)``, of which ``signature`` names the ``arguments``' types.

    Its pieces are numbered from 0 and claimed in this order.
    """
    arguments, _ = sigutils.normalize_signature(signature)

    def compile_now(kernel: Any) -> Any:
        prepare = _prepare(inlined(kernel))

        def call(control, pieces, *arguments):  # type: ignore[no-untyped-def]
            prepare(control, arguments)
            _share_out(control, pieces)

        # the cache tells functions by name
        call.__name__ = call.__qualname__ = f"{kernel.__module__.rpartition('.')[2]}_{kernel.__name__}"
        return compiled(types.void(_CONTROL, types.int64, types.BaseTuple.from_types(arguments)))(call)

    return compile_now


# --- what the compiler is told ---------------------------------------------------------------------------------------


def _prepare(kernel: Any) -> Any:
    """Makes the function that puts the kernel's address, that of its arguments and their size into the control block."""

    @_intrinsic
    def prepare(typing_context, control, arguments):  # type: ignore[no-untyped-def]
        function = typing_context.resolve_value_type(kernel)
        call = function.get_call_type(typing_context, (types.int64, types.int64, *arguments), {})

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            block, packed = values
            compilation = kernel.overloads[call.args]
            context.active_code_library.add_linking_library(compilation.library)
            code = ir.Function(builder.module, _KERNEL_TYPE, builder.module.get_unique_name("piece"))
            code.linkage = "internal"
            inside = ir.IRBuilder(code.append_basic_block())
            piece, thread, at = code.args
            given = cgutils.unpack_tuple(inside, inside.load(inside.bitcast(at, packed.type.as_pointer())))
            plain = [_uncounted(context, inside, *pair) for pair in zip(arguments, given, strict=True)]
            context.call_internal_no_propagate(inside, compilation.fndesc, call, [piece, thread, *plain])
            inside.ret_void()
            at = cgutils.alloca_once_value(builder, packed)
            size = context.get_abi_sizeof(packed.type)
            for offset, word in enumerate((builder.ptrtoint(code, _INT), builder.ptrtoint(at, _INT), _INT(size))):
                builder.store(word, _slot(context, builder, signature.args[0], block, _INT(_KERNEL + offset)))
            return context.get_dummy_value()

        return types.void(control, arguments), generate

    return prepare


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An array without its count of references: two threads that count slices of one array wait for each other."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = ir.Constant(array.meminfo.type, None)
    return array._getvalue()


def _slot(context: Any, builder: Any, kind: Any, block: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, block).data, [index])


def _atomic(emit: Callable[..., Any]) -> Callable[..., Any]:
    """Code of one operation on a number of the control block, which no other memory access moves across."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        block, index, *numbers = values
        result = emit(builder, _slot(context, builder, signature.args[0], block, index), *numbers)
        return context.get_dummy_value() if signature.return_type == types.void else result

    return generate


_N, _ORDER = types.int64, "seq_cst"


@_intrinsic
def _load(typing_context, control, index):  # type: ignore[no-untyped-def]
    return _N(control, _N), _atomic(lambda builder, slot: builder.load_atomic(slot, _ORDER, 8))


@_intrinsic
def _store(typing_context, control, index, value):  # type: ignore[no-untyped-def]
    return types.void(control, _N, _N), _atomic(
        lambda builder, slot, value: builder.store_atomic(value, slot, _ORDER, 8)
    )


@_intrinsic
def _add(typing_context, control, index, value):  # type: ignore[no-untyped-def]
    """What it was before."""
    return _N(control, _N, _N), _atomic(lambda builder, slot, value: builder.atomic_rmw("add", slot, value, _ORDER))


@_intrinsic
def _replace(typing_context, control, index, old, new):  # type: ignore[no-untyped-def]
    """``new`` if it is ``old``; whether it was."""

    def exchange(builder: Any, slot: Any, old: Any, new: Any) -> Any:
        return builder.extract_value(builder.cmpxchg(slot, old, new, _ORDER, _ORDER), 1)

    return types.boolean(control, _N, _N, _N), _atomic(exchange)


@_intrinsic
def _address(typing_context, control, index):  # type: ignore[no-untyped-def]
    return _N(control, _N), _atomic(lambda builder, slot: builder.ptrtoint(slot, _INT))


@_intrinsic
def _copy(typing_context, to, source, count):  # type: ignore[no-untyped-def]
    """``count`` bytes from one address to another."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        to, source = (builder.inttoptr(address, _BYTES) for address in values[:2])
        cgutils.raw_memcpy(builder, to, source, values[2], 1)
        return context.get_dummy_value()

    return types.void(_N, _N, _N), generate


@_intrinsic
def _jump(typing_context, code, arguments, piece, thread):  # type: ignore[no-untyped-def]
    """Calls the kernel at the address ``code``."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        code, arguments, piece, thread = values
        kernel = builder.inttoptr(code, _KERNEL_TYPE.as_pointer())
        builder.call(kernel, [piece, thread, builder.inttoptr(arguments, _BYTES)])
        return context.get_dummy_value()

    return types.void(_N, _N, _N, _N), generate


@_intrinsic
def _pause(typing_context):  # type: ignore[no-untyped-def]
    """Tells an x86 that a loop waits: its other thread gets the units, and some 40 cycles pass."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        if platform.machine() in ("x86_64", "AMD64"):
            builder.call(cgutils.get_or_insert_function(builder.module, _PAUSE_TYPE, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


# --- the threads' own loops ------------------------------------------------------------------------------------------


@inlined
def _wake(control, thread):  # type: ignore[no-untyped-def]
    asleep = _SLEEPERS + thread * _LINE
    if _load(control, asleep) == 1 and _replace(control, asleep, 1, 0):
        _release(control[asleep + 1])


@inlined
def _idle(control, thread):  # type: ignore[no-untyped-def]
    """Whether there is nothing for the thread: for a worker no piece, for the caller no end."""
    if thread == 0:
        return _load(control, _UNDONE) != 0
    return _load(control, _TICKET) & _LOWER == 0 and _load(control, _STOP) == 0


@inlined
def _wait(control, thread):  # type: ignore[no-untyped-def]
    """Looks for a while, then sleeps until ``_wake``, but not where something came after it said that it sleeps."""
    for _ in range(_SPINS):
        if not _idle(control, thread):
            return
        _pause()
    asleep = _SLEEPERS + thread * _LINE
    _store(control, asleep, 1)
    if _idle(control, thread) or not _replace(control, asleep, 1, 0):
        _acquire(control[asleep + 1], 1)


@inlined
def _do_a_piece(control, thread):  # type: ignore[no-untyped-def]
    """False where all are claimed. Who claimed one holds the call up until it is done, so address and arguments are its own."""
    ticket = _load(control, _TICKET)
    left = ticket & _LOWER
    if left == 0:
        return False
    if _replace(control, _TICKET, ticket, ticket - 1):
        _jump(control[_KERNEL], control[_KERNEL + 1], control[_KERNEL + 3] - left, thread)
        if _add(control, _UNDONE, -1) == 1:
            _wake(control, 0)
    return True


@inlined
def _words(size):  # type: ignore[no-untyped-def]
    return (size + 7) >> 3


@inlined
def _note(control):  # type: ignore[no-untyped-def]
    """Records the call that is in the control block. What there is no room for is counted only."""
    used, size = control[_RECORD + 2], control[_KERNEL + 2]
    control[_RECORD + 2] = used + _CALL + _words(size)
    if control[_RECORD + 2] <= control[_RECORD + 1]:
        to = control[_RECORD] + 8 * used
        _copy(to, _address(control, _KERNEL), 8 * _CALL)
        _copy(to + 8 * _CALL, control[_KERNEL + 1], size)


@compiled(types.void(_CONTROL, types.int64))
def _share_out(control, pieces):  # type: ignore[no-untyped-def]
    """The caller's part: publishes the pieces, wakes who sleeps, works, waits for the rest."""
    control[_KERNEL + 3] = pieces
    if control[_RECORD] != 0:
        _note(control)
    _store(control, _UNDONE, pieces)
    _store(control, _TICKET, (((control[_TICKET] >> _HALF) + 1) << _HALF) | pieces)
    for thread in range(1, min(pieces, control[_STOP + 1])):
        _wake(control, thread)
    while _do_a_piece(control, 0):
        pass
    while _load(control, _UNDONE) != 0:
        _wait(control, 0)


@compiled(types.void(_CONTROL, _CONTROL))
def _replay(control, recording):  # type: ignore[no-untyped-def]
    at = 0
    while at < recording.size:
        code, size, pieces = recording[at], recording[at + 2], recording[at + 3]
        at += _CALL
        control[_KERNEL], control[_KERNEL + 1] = code, _address(recording, at)
        control[_KERNEL + 2] = size
        _share_out(control, pieces)
        at += _words(size)


@compiled(types.void(_CONTROL, types.int64))
def _work(control, thread):  # type: ignore[no-untyped-def]
    """A worker's life."""
    while _load(control, _STOP) == 0:
        if not _do_a_piece(control, thread):
            _wait(control, thread)


@compiled(types.void(_CONTROL))
def _stop(control):  # type: ignore[no-untyped-def]
    _store(control, _STOP, 1)
    for thread in range(1, control[_STOP + 1]):
        _wake(control, thread)
