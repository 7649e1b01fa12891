"""Arithmetic in IR, with NumPy's meaning: guarded where LLVM leaves a result undefined.

In: an ``Emitter``, the dtype of the loop, values. Out: the value of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fusegraph.engines.llvm.casts import cast, truncated
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.kinds import by_kind, each
from fusegraph.engines.llvm.values import DOUBLE, UINT32, Parts, Rule, number
from fusegraph.graph import DType


def numpy_fuses_complex_products() -> bool:
    """Does the installed NumPy multiply complex numbers with fused multiply-adds?

    Its loops do where the processor has them, so the result depends on both.
    """
    x = np.full(8, complex(1 + 2.0**-30, 1), np.complex128)
    return bool((x * x).real[0] != (1 + 2.0**-30) ** 2 - 1)


def complex_multiply(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x * y`` as NumPy rounds it."""
    (a, b), (c, d) = x, y
    if numpy_fuses_complex_products():
        return (e.fma(a, c, e.fneg(e.fmul(b, d))), e.fma(a, d, e.fmul(b, c)))
    return (e.fsub(e.fmul(a, c), e.fmul(b, d)), e.fadd(e.fmul(a, d), e.fmul(b, c)))


MULTIPLY = by_kind(b=each("and_"), iu=each("mul"), f=each("fmul"), c=complex_multiply)


def divide(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x / y``."""
    if dtype.kind in "iu":  # NumPy's loops on small integers divide as doubles
        x, y = cast(e, x, dtype, DOUBLE), cast(e, y, dtype, DOUBLE)
    return (e.fdiv(x[0], y[0]),)


def reciprocal_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``1 / x`` of integers, as NumPy truncates it."""
    quotient = e.fdiv(e.real("double", 1.0), cast(e, x, dtype, DOUBLE)[0])
    if dtype == UINT32:  # infinity becomes 0, whichever way a processor casts it
        return (e.trunc(truncated(e, quotient, "i64"), "i32"),)
    return cast(e, (quotient,), DOUBLE, dtype)


def _safe_divisor(e: Emitter, dtype: DType, y: Value) -> tuple[Value, Value, Value | None]:
    """A divisor that neither is zero nor overflows, whether y is zero, and whether it is -1."""
    zero = e.icmp("eq", y, e.whole(y.type, 0))
    unsafe, minus = zero, None
    if dtype.kind == "i":
        minus = e.icmp("eq", y, e.whole(y.type, -1))
        unsafe = e.or_(zero, minus)
    return e.select(unsafe, e.whole(y.type, 1), y), zero, minus


def floor_divide_int(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x // y`` of integers."""
    (a,), (b,) = x, y
    divisor, by_zero, by_minus = _safe_divisor(e, dtype, b)
    nought = e.whole(a.type, 0)
    if by_minus is None:
        return (e.select(by_zero, nought, e.udiv(a, divisor)),)
    quotient = e.sdiv(a, divisor)
    rest = e.srem(a, divisor)
    low = e.and_(e.icmp("ne", rest, nought), e.icmp("slt", e.xor(rest, divisor), nought))
    floor = e.select(low, e.sub(quotient, e.whole(a.type, 1)), quotient)
    floor = e.select(by_minus, e.sub(nought, a), floor)
    return (e.select(by_zero, nought, floor),)


def remainder_int(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x % y`` of integers, with the sign of y."""
    (a,), (b,) = x, y
    divisor, by_zero, by_minus = _safe_divisor(e, dtype, b)
    nought = e.whole(a.type, 0)
    if by_minus is None:
        return (e.select(by_zero, nought, e.urem(a, divisor)),)
    rest = e.srem(a, divisor)
    low = e.and_(e.icmp("ne", rest, nought), e.icmp("slt", e.xor(rest, divisor), nought))
    return (e.select(by_zero, nought, e.select(low, e.add(rest, divisor), rest)),)


def fmod_int(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """C's remainder of integers, with the sign of x."""
    (a,), (b,) = x, y
    divisor, by_zero, _ = _safe_divisor(e, dtype, b)
    rest = e.srem(a, divisor) if dtype.kind == "i" else e.urem(a, divisor)
    return (e.select(by_zero, e.whole(a.type, 0), rest),)


def _divmod(e: Emitter, a: Value, b: Value) -> tuple[Value, Value]:
    """NumPy's npy_divmod: floor(a / b) that agrees with the remainder, and the remainder."""
    zero, one = e.real(a.type, 0.0), e.real(a.type, 1.0)
    by_zero = e.fcmp("oeq", b, zero)
    rest = e.frem(a, b)
    quotient = e.fdiv(e.fsub(a, rest), b)
    some = e.fcmp("une", rest, zero)
    crosses = e.xor(e.fcmp("olt", b, zero), e.fcmp("olt", rest, zero))
    adjust = e.and_(some, crosses)
    remainder = e.select(adjust, e.fadd(rest, b), e.select(some, rest, e.copysign(zero, b)))
    quotient = e.select(adjust, e.fsub(quotient, one), quotient)
    floor = e.floor(quotient)
    above = e.fcmp("ogt", e.fsub(quotient, floor), e.real(a.type, 0.5))
    floor = e.select(above, e.fadd(floor, one), floor)
    whole = e.fdiv(a, b)
    floor = e.select(e.fcmp("une", quotient, zero), floor, e.copysign(zero, whole))
    return e.select(by_zero, whole, floor), e.select(by_zero, rest, remainder)


def floor_divide(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x // y``."""
    return (_divmod(e, x[0], y[0])[0],)


def remainder(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x % y``."""
    return (_divmod(e, x[0], y[0])[1],)


def negative_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``-x``, around the end of the range."""
    return (e.sub(e.whole(x[0].type, 0), x[0]),)


def abs_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``|x|``; the least integer has none and stays."""
    if dtype.kind == "u":
        return x
    zero = e.whole(x[0].type, 0)
    return (e.select(e.icmp("slt", x[0], zero), e.sub(zero, x[0]), x[0]),)


def square(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``x * x``."""
    return MULTIPLY(e, dtype, x, x)


def reciprocal(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``1 / x``."""
    return (e.fdiv(e.real(x[0].type, 1.0), x[0]),)


def sign(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """-1, 0 or 1; NaN stays."""
    value = x[0]
    zero, one = number(e, value, 0), number(e, value, 1)
    if dtype.kind == "u":
        return (e.select(e.icmp("eq", value, zero), zero, one),)
    minus = number(e, value, -1)
    if dtype.kind == "i":
        below = e.select(e.icmp("slt", value, zero), minus, zero)
        return (e.select(e.icmp("sgt", value, zero), one, below),)
    found = e.select(e.fcmp("oeq", value, zero), zero, value)  # NaN stays
    found = e.select(e.fcmp("olt", value, zero), minus, found)
    return (e.select(e.fcmp("ogt", value, zero), one, found),)


def heaviside(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """0, ``y`` or 1: for x below, at and above 0."""
    (a,), (b,) = x, y
    zero, one = e.real(a.type, 0.0), e.real(a.type, 1.0)
    found = e.select(e.fcmp("olt", a, zero), zero, a)
    found = e.select(e.fcmp("ogt", a, zero), one, found)
    return (e.select(e.fcmp("oeq", a, zero), b, found),)


def times(value: Callable[[Any], Any]) -> Rule:
    """Multiplied by a constant that is computed in the value's own precision, as in NumPy."""

    def rule(e: Emitter, dtype: DType, x: Parts) -> Parts:
        precision = np.float64 if dtype == DOUBLE else np.float32
        return (e.fmul(x[0], e.real(x[0].type, float(value(precision)))),)

    return rule
