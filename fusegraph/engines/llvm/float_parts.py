"""Parts of numbers in IR: sign, exponent, neighbours, real and imaginary part.

In: an ``Emitter``, the dtype of the loop, values. Out: the value of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.values import HALF, Parts, Rule, number
from fusegraph.graph import DType


def any_part(test: Callable[[Emitter, Value], Value]) -> Rule:
    """Does a test hold for the real or the imaginary part?"""

    def rule(e: Emitter, dtype: DType, x: Parts) -> Parts:
        found = [test(e, part) for part in x]
        return (found[0] if len(found) == 1 else e.or_(*found),)

    return rule


def part_is_nan(e: Emitter, x: Value) -> Value:
    """Is it NaN?"""
    return e.fcmp("uno", x, x)


def part_is_infinite(e: Emitter, x: Value) -> Value:
    """Is it infinite?"""
    return e.fcmp("oeq", e.fabs(x), e.real(x.type, math.inf))


def is_finite(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """Is it neither infinite nor NaN?"""
    found = [e.fcmp("one", e.fabs(part), e.real(part.type, math.inf)) for part in x]
    return (found[0] if len(found) == 1 else e.and_(*found),)


def signbit(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """Is its sign bit set?"""
    whole = "i64" if x[0].type == "double" else "i32"
    return (e.icmp("slt", e.bitcast(x[0], whole), e.whole(whole, 0)),)


FIRST_OF_EQUALS = bool(np.signbit(np.nextafter(np.float16(-0.0), np.float16(0.0))))
"""NumPy 2.4 and earlier take the first of two equal float16; C, and NumPy since, the second."""


def nextafter(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """One step on the integers that are the bits, as in C's nextafter."""
    (a,), (b,) = x, y
    whole = {"e": "i16", "f": "i32", "d": "i64"}[dtype.char]
    bits = e.call("fg_half_bits", "i16", a) if dtype == HALF else e.bitcast(a, whole)
    zero = e.real(a.type, 0.0)
    away = e.xor(e.fcmp("olt", a, b), e.fcmp("olt", a, zero))
    step = e.select(away, e.whole(whole, 1), e.whole(whole, -1))
    width = int(whole[1:])
    least = e.select(
        e.fcmp("ogt", b, zero), e.whole(whole, 1), e.whole(whole, (1 << (width - 1)) + 1)
    )
    moved = e.select(e.fcmp("oeq", a, zero), least, e.add(bits, step))
    back = e.call("fg_half_value", "float", moved) if dtype == HALF else e.bitcast(moved, a.type)
    back = e.select(e.fcmp("oeq", a, b), a if dtype == HALF and FIRST_OF_EQUALS else b, back)
    return (e.select(e.fcmp("uno", a, b), e.fadd(a, b), back),)


def conj(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """The complex conjugate."""
    return (x[0], e.fneg(x[1]))


def imag(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """The imaginary part."""
    return (x[1],) if dtype.kind == "c" else (number(e, x[0], 0),)
