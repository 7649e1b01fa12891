"""Casts in IR: ``x.astype(dtype)`` as NumPy does it on this processor.

In: an ``Emitter``, a value, its dtype and another one. Out: the value in that.
"""

from __future__ import annotations

import numpy as np

from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.values import (
    ARM,
    DOUBLE,
    HALF,
    UINT32,
    UINT64,
    Parts,
    UnsupportedError,
    register_type,
    truth,
)
from fusegraph.graph import DType


def rounded(e: Emitter, x: Parts) -> Parts:
    """To float16 and back."""
    return (e.call("fg_half_rounded", "float", x[0]),)


def cast(e: Emitter, x: Parts, start: DType, end: DType) -> Parts:
    """``x.astype(end)``, as NumPy does it on this processor."""
    if start == end:
        return x
    if end.kind == "b":
        return (truth(e, x, start),)
    if end.kind == "c":
        return _to_complex(e, x, start, end)
    if start.kind == "c":
        x, start = x[:1], np.dtype(start.char.lower())
        return cast(e, x, start, end)
    if end.kind == "f":
        return _to_float(e, x, start, end)
    return (_to_integer(e, x[0], start, end),)


def _to_complex(e: Emitter, x: Parts, start: DType, end: DType) -> Parts:
    part = np.dtype(end.char.lower())
    if start.kind == "c":
        origin = np.dtype(start.char.lower())
        return tuple(cast(e, (p,), origin, part)[0] for p in x)
    return (*cast(e, x, start, part), e.real(register_type(end), 0.0))


def _to_float(e: Emitter, x: Parts, start: DType, end: DType) -> Parts:
    kind = register_type(end)
    value = x[0]
    if start.kind == "b":
        return (e.uitofp(value, kind),)
    if start.kind in "iu":
        found = (e.sitofp if start.kind == "i" else e.uitofp)(value, kind)
        return rounded(e, (found,)) if end == HALF else (found,)
    if end == HALF:
        if start == DOUBLE:
            value = _rounded_to_odd(e, value)
        return rounded(e, (value,))
    if value.type == kind:
        return x
    return ((e.fpext if kind == "double" else e.fptrunc)(value, kind),)


def _rounded_to_odd(e: Emitter, x: Value) -> Value:
    """A double as a float whose last bit tells that bits were lost: rounding it again rounds once.

    S. Boldo and G. Melquiond, "When double rounding is odd", 2005.
    """
    near = e.fptrunc(x, "float")
    back = e.fpext(near, "double")
    lost = e.fcmp("one", back, x)
    bits = e.bitcast(near, "i32")
    beyond = e.fcmp("ogt", e.fabs(back), e.fabs(x))
    toward_zero = e.select(beyond, e.sub(bits, e.whole("i32", 1)), bits)
    odd = e.or_(toward_zero, e.whole("i32", 1))
    return e.bitcast(e.select(lost, odd, bits), "float")


def _to_integer(e: Emitter, x: Value, start: DType, end: DType) -> Value:
    kind = register_type(end)
    if start.kind == "b":
        return e.zext(x, kind)
    if start.kind in "iu":
        if start.itemsize == end.itemsize:
            return x
        if start.itemsize > end.itemsize:
            return e.trunc(x, kind)
        return (e.sext if start.kind == "i" else e.zext)(x, kind)
    if end == UINT64:
        return _to_uint64(e, x)
    if end == UINT32 and not ARM:
        # NumPy's vectorised loop gives 2147483648 for NaN and its tail gives 0.
        raise UnsupportedError(
            "NumPy's cast to uint32 depends on the place where it is out of range"
        )
    middle = "i64" if end.itemsize == 8 or end == UINT32 else "i32"
    found = truncated(e, x, middle)
    return found if middle == kind else e.trunc(found, kind)


def truncated(e: Emitter, x: Value, kind: str) -> Value:
    """Toward zero. Out of range and NaN: the least integer (x86), the nearest one and 0 (arm64)."""
    width = int(kind[1:])
    if ARM:
        return e.intrinsic(f"fptosi.sat.{kind}.f{32 if x.type == 'float' else 64}", kind, x)
    least = e.real(x.type, -(2.0 ** (width - 1)))
    inside = e.and_(e.fcmp("oge", x, least), e.fcmp("olt", x, e.real(x.type, 2.0 ** (width - 1))))
    return e.fptosi(e.select(inside, x, least), kind)


def _to_uint64(e: Emitter, x: Value) -> Value:
    """What compilers make of it on x86: the upper half goes through the signed cast, moved by 2^63."""
    if ARM:
        return e.intrinsic(f"fptoui.sat.i64.f{32 if x.type == 'float' else 64}", "i64", x)
    half = e.real(x.type, 2.0**63)
    upper = e.fcmp("oge", x, half)
    moved = e.xor(truncated(e, e.fsub(x, half), "i64"), e.whole("i64", -(2**63)))
    return e.select(upper, moved, truncated(e, x, "i64"))
