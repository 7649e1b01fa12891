"""Values in registers and in memory: what NumPy's dtypes are in IR.

A value is held as ``Parts``: one IR value, or real and imaginary part. A bool is an ``i1``; a float16 is
a ``float`` that is rounded after every operation, as NumPy's loops do.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.graph import DType

Parts = tuple[Value, ...]
Rule = Callable[..., Parts]

HALF, DOUBLE, UINT32, UINT64 = (np.dtype(c) for c in ("f2", "f8", "u4", "u8"))
_FLOAT_TYPES = {"e": "float", "f": "float", "d": "double", "F": "float", "D": "double"}
# C leaves a cast out of range undefined; NumPy gives what the processor does: x86 answers with the least
# integer, arm64 with the nearest one. tests/test_integers.py compares with the installed NumPy.
ARM = platform.machine().lower() in ("arm64", "aarch64")


class UnsupportedError(Exception):
    """No IR of an operation has NumPy's results; the message says why."""


def register_type(dtype: DType) -> str:
    """The IR type of a value's parts in registers."""
    if dtype.kind == "b":
        return "i1"
    if dtype.kind in "iu":
        return f"i{8 * dtype.itemsize}"
    return _FLOAT_TYPES[dtype.char]


def memory_type(dtype: DType) -> str:
    """The IR type of a value's parts in memory."""
    if dtype.kind == "b":
        return "i8"
    return "i16" if dtype == HALF else register_type(dtype)


def from_memory(e: Emitter, loaded: Parts, dtype: DType) -> Parts:
    """A value in registers from what was loaded."""
    if dtype.kind == "b":
        return (e.icmp("ne", loaded[0], e.whole("i8", 0)),)
    if dtype == HALF:
        return (e.call("fg_half_value", "float", loaded[0]),)
    return loaded


def to_memory(e: Emitter, value: Parts, dtype: DType) -> Parts:
    """What to store of a value in registers."""
    if dtype.kind == "b":
        return (e.zext(value[0], "i8"),)
    if dtype == HALF:
        return (e.call("fg_half_bits", "i16", value[0]),)
    return value


def literal(e: Emitter, value: Any, dtype: DType) -> Parts:
    """A constant of ``dtype``."""
    kind = register_type(dtype)
    if dtype.kind == "c":
        return (e.real(kind, float(value.real)), e.real(kind, float(value.imag)))
    if dtype.kind == "f":
        return (e.real(kind, float(value)),)
    return (e.whole(kind, int(value)),)


def number(e: Emitter, like: Value, value: float) -> Value:
    """A literal of the type of ``like``."""
    return (
        e.real(like.type, value)
        if like.type in ("float", "double")
        else e.whole(like.type, int(value))
    )


def truth(e: Emitter, x: Parts, dtype: DType) -> Value:
    """Is it not zero? NaN is true."""
    if dtype.kind == "b":
        return x[0]
    if dtype.kind in "iu":
        return e.icmp("ne", x[0], e.whole(x[0].type, 0))
    parts = [e.fcmp("une", part, e.real(part.type, 0.0)) for part in x]
    return parts[0] if len(parts) == 1 else e.or_(*parts)
