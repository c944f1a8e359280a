"""A module in the place of CuPy for a machine without a GPU: NumPy does its work, and its kernels are emulated PTX.

It is as strict as CuPy. Arrays of the host are not taken; what CuPy lacks is not there, as far as CuPy is installed to tell;
ufuncs know ``out``, ``dtype`` and ``casting`` only; memory that nobody has written to is NaN, and a kernel that reads it fails;
kernels get what they declare.
While a stream captures, anything but a launch fails, and so does a graph whose memory is gone when it is replayed.
"""

from __future__ import annotations

import importlib.util
import inspect
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda_streams import Event, Stream, refuse_while_capturing
from ptx.emulator import Module, Options, Signature, compiled, empty, extent, owner_of, signature

from npgan.engines.cuda.device import THREADS, source

REAL: Any = importlib.import_module("cupy") if importlib.util.find_spec("cupy") else None  # it needs no GPU for that
_QUERIES = {
    "dtype",
    "finfo",
    "iinfo",
    "isscalar",
    "issubdtype",
    "ndim",
    "promote_types",
    "result_type",
    "shape",
    "size",
}


# --- arrays ------------------------------------------------------------------------------------------------------------


def _device(what: str) -> None:
    """Before something is done with arrays: the current stream has come so far."""
    refuse_while_capturing(what)
    Stream.current.synchronize()


def _in(value: Any) -> Any:
    """What NumPy is given for an argument."""
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(_in(each) for each in value)
    return value


def _out(value: Any) -> Any:
    """What CuPy gives for NumPy's result: an array even for a single number."""
    if isinstance(value, (np.ndarray, np.generic, bool)):
        return ndarray(np.asarray(value))
    if isinstance(value, (list, tuple)):
        return type(value)(_out(each) for each in value)
    return value


def _call(name: str, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    _device(name)
    with np.errstate(all="ignore"):
        result = function(*_in(args), **{key: _in(value) for key, value in kwargs.items()})
    out = kwargs.get("out")
    return out if isinstance(out, ndarray) else _out(result)


class ndarray:  # noqa: N801 - CuPy's name
    def __init__(self, values: np.ndarray) -> None:
        assert values.dtype.kind in "biufc", values.dtype
        self._values = values

    def __array__(self, *_args: object, **_kwargs: object) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        return getattr(cupy, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return getattr(cupy, function.__name__)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(REAL.ndarray if REAL else np.ndarray, name):
            raise AttributeError(f"cupy.ndarray has no attribute {name!r}")
        value = getattr(self._values, name)
        if not callable(value):
            return _out(value) if isinstance(value, np.ndarray) else value

        def method(*args: Any, **kwargs: Any) -> Any:
            if REAL:  # its methods have their signature in the documentation's first line
                signature = getattr(REAL.ndarray, name).__doc__.partition("\n")[0]
                assert all(keyword in signature for keyword in kwargs), (signature, kwargs)
            if name in ("item", "tolist"):
                _device(name)
                return value(*args, **kwargs)
            return _call(name, value, args, kwargs)

        return method

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if blocking:
            _device("get")
            return np.array(self._values)
        assert out.shape == self.shape and out.dtype == self.dtype and out.flags.c_contiguous
        refuse_while_capturing("get")
        stream.launch(lambda: out.__setitem__(..., self._values))
        return out  # type: ignore[no-any-return]

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        _device("set")
        assert values.dtype == self.dtype and values.shape == self.shape
        self._values[...] = values

    @property
    def real(self) -> ndarray:
        return ndarray(self._values.real)

    @property
    def imag(self) -> ndarray:
        return ndarray(self._values.imag)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Any:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(each, (ndarray, list)) for each in keys):
            return _call("[]", self._values.__getitem__, (key,), {})  # type: ignore[no-any-return]
        more = () if any(each is Ellipsis for each in keys) else (Ellipsis,)
        return ndarray(self._values[(*keys, *more)])  # a view, even of one number

    def __setitem__(self, key: Any, value: Any) -> None:
        _call("[]=", self._values.__setitem__, (key, value), {})

    def __copy__(self) -> ndarray:
        return _out(_call("copy", self._values.copy, (), {}))  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: object) -> ndarray:
        return self.__copy__()

    def __repr__(self) -> str:
        return repr(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)


ndarray.__module__ = "cupy"


def _add_operators() -> None:
    """Those of CuPy's arrays: with another array or a number, not with an array of the host."""

    def unary(name: str) -> Callable[..., Any]:
        return lambda self: _call(name, getattr(self._values, name), (), {})

    def binary(name: str) -> Callable[..., Any]:
        return lambda self, other: _call(name, getattr(self._values, name), (other,), {})

    def in_place(name: str) -> Callable[..., Any]:
        def operator(self: ndarray, other: Any) -> ndarray:
            _call(name, getattr(self._values, name), (other,), {})
            return self

        return operator

    def scalar(name: str) -> Callable[..., Any]:
        def conversion(self: ndarray) -> Any:
            return getattr(self.get(), name)()

        return conversion

    arithmetic = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"]
    for name in (
        *arithmetic,
        *(f"r{each}" for each in arithmetic),
        *["matmul", "rmatmul", "eq", "ne", "lt", "le", "gt", "ge"],
    ):
        setattr(ndarray, f"__{name}__", binary(f"__{name}__"))
    for name in arithmetic:
        setattr(ndarray, f"__i{name}__", in_place(f"__i{name}__"))
    for name in ["neg", "pos", "abs", "invert"]:
        setattr(ndarray, f"__{name}__", unary(f"__{name}__"))
    for name in ["bool", "int", "float", "complex"]:
        setattr(ndarray, f"__{name}__", scalar(f"__{name}__"))
    ndarray.__hash__ = None  # type: ignore[assignment]


_add_operators()


class _Functions(ModuleType):
    """NumPy's functions of the names that CuPy has too, for arrays of the device."""

    def __init__(self, name: str, numpy: Any, real: Any) -> None:
        super().__init__(name)
        self._numpy, self._real = numpy, real

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or (self._real is not None and not hasattr(self._real, name)):
            raise AttributeError(f"{self.__name__} has no {name!r}")
        found, real = getattr(self._numpy, name), getattr(self._real, name, None)
        if isinstance(found, ModuleType):
            return _Functions(f"{self.__name__}.{name}", found, real)
        if not callable(found) or isinstance(found, type) or name in _QUERIES:
            return found

        def function(*args: Any, **kwargs: Any) -> Any:
            if isinstance(found, np.ufunc):
                assert set(kwargs) <= {"out", "dtype", "casting"}, f"cupy.{name} has no {set(kwargs)}"
            elif inspect.isfunction(real):
                inspect.signature(real).bind(*args, **kwargs)
            if name in ("empty", "empty_like"):
                result = _call(name, found, args, kwargs)
                words = result._values.reshape(-1).view(np.uint8)
                words[...] = np.resize(empty(1).view(np.uint8), words.size)  # NaN, where it is a float
                return result
            if name in ("array", "asarray", "ascontiguousarray") and isinstance(args[0], np.ndarray):
                _device(name)
                return ndarray(np.array(found(*args, **kwargs)))
            if (
                name == "asarray"
                and isinstance(args[0], ndarray)
                and kwargs.get("dtype", args[0].dtype) == args[0].dtype
            ):
                return args[0]
            return _call(name, found, args, kwargs)

        return function


# --- kernels -----------------------------------------------------------------------------------------------------------

_TYPES = {"int": np.int32, "u32": np.uint32, "u64": np.uint64, "float": np.float32, "double": np.float64}
_ELEMENTS = {**_TYPES, "unsigned char": np.uint8}


def _check(value: Any, declared: Signature) -> None:
    if not declared.pointer:
        assert type(value) is _TYPES[declared.type], (value, declared)
    elif not isinstance(value, np.uint64):  # a null pointer
        assert isinstance(value, ndarray) and value.dtype == _ELEMENTS[declared.type], (value, declared)
        assert extent(value._values)  # in one piece


class _View:
    """An array of the device as a kernel's argument: its address, which does not keep its memory alive."""

    def __init__(self, values: np.ndarray) -> None:
        owner = owner_of(values)
        self._owner = weakref.ref(owner)
        self._place = values.shape, values.dtype, values.ctypes.data - owner.ctypes.data, values.strides

    def get(self, kernel: str) -> np.ndarray:
        owner = self._owner()
        assert owner is not None, f"{kernel}: memory is gone"
        shape, dtype, offset, strides = self._place
        return np.ndarray(shape, dtype, owner.data, offset, strides)


class RawModule:
    """Races inside of a launch are not looked for: tests/ptx does, and training takes many launches."""

    def __init__(self, code: str | None = None, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        assert code == source() and backend == "nvrtc"
        self._options = options
        self._module: Module | None = None

    def compile(self, log_stream: Any = None) -> None:
        self._module = compiled(int(_Device.compute_capability), self._options)

    def get_function(self, name: str) -> Callable[..., None]:
        module = self._module
        assert module is not None
        declared = signature(module.code, name)

        def launch(grid: tuple[int, int], block: tuple[int], args: tuple[Any, ...]) -> None:
            assert block == (THREADS,) and min(grid) > 0 and len(args) == len(declared), (name, grid, block, args)
            for value, parameter in zip(args, declared, strict=True):
                _check(value, parameter)
            given = [_View(value._values) if isinstance(value, ndarray) else value for value in args]
            kept = (
                [] if Stream.capture else [value for value in args if isinstance(value, ndarray)]
            )  # a graph keeps none alive

            def call() -> None:
                values = [value.get(name) if isinstance(value, _View) else value for value in given]
                module.launch(name, grid, *values, options=Options(checked=False))
                kept.clear()

            Stream.current.launch(call)

        launch.kernel = SimpleNamespace(ptr=name)  # type: ignore[attr-defined]
        return launch


# --- the module --------------------------------------------------------------------------------------------------------


class _Device:
    id, compute_capability = 0, "90"
    attributes = {"MultiProcessorCount": 4}


cupy: Any = _Functions("cupy", np, REAL)
cupy.ndarray = ndarray
cupy.RawModule = RawModule
cupy.__version__ = "14.2.0"
cupy.cuda = SimpleNamespace(
    Stream=Stream,
    Event=Event,
    Device=_Device,
    get_current_stream=lambda: Stream.current,
    alloc_pinned_memory=bytearray,
    get_elapsed_time=lambda start, end: 0.1,  # milliseconds
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 1,
        driverGetVersion=lambda: 12040,
        runtimeGetVersion=lambda: 12040,
        getDeviceProperties=lambda number: {"name": b"Stand-in", "major": 9, "minor": 0},
    ),
)
