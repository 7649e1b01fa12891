"""Logarithms, as IR.

In: an Emitter and Values of type ``float`` or ``double``. Out: the Value of the function, straight-line
code over scalars. ``x = 2**k (1 + f)`` with ``1 + f`` in [sqrt(1/2), sqrt(2)), and ``log(1 + f) =
2 atanh(s)`` of ``s = f / (2 + f)``, written ``f - s (f - 2 s**2 p(s**2))`` so that only a small term is
rounded (K. Ng, FDLIBM, 1993). A polynomial in f needs twice the coefficients and saves nothing: the
division runs beside the products. Coefficients are near-minimax, fitted on Chebyshev points in
200-bit arithmetic; the error of each fit stands beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fusegraph.engines.llvm.exponentials import LN2
from fusegraph.engines.llvm.formats import FORMATS
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import polynomial, quick_two_sum, two_sum

# fmt: off
ATANH_TAIL = {  # (atanh(s) / s - 1) / s**2 in s**2, |s| <= 0.1718: 2**-30.7, 2**-59.7
    "float": (0.3333333432674408, 0.2000006139278412, 0.14275367558002472, 0.11666381359100342),
    "double": (
        0.3333333333333333, 0.20000000000000445, 0.14285714285397969, 0.11111111196726314,
        0.0909089772726325, 0.07693124894098052, 0.0663425165639738, 0.06544722572623156,
    ),
}
# fmt: on
LIFT = {"float": 25, "double": 54}  # powers of two that make a subnormal normal
LOG2_E_LESS_1 = {"float": 0.4426950514316559, "double": 0.4426950408889634}
LOG10_E_LESS_HALF = {"float": -0.06570551544427872, "double": -0.06570551809674817}
LOG10_2 = {  # 16 and 40 bits, so that times an exponent it is exact, and the rest
    "float": (0.301025390625, 4.605039066518657e-06),
    "double": (0.3010299956640665, -8.532344317057107e-14),
}


class Split(NamedTuple):
    """``2**exponent * (1 + f)`` as numbers."""

    exponent: Value
    f: Value
    power: Value  # the bits of 2**exponent


def split(e: Emitter, x: Value) -> Split:
    """Take a positive finite number apart; what other arguments give is replaced afterwards."""
    kind = x.type
    tiny = e.fcmp("olt", x, e.real(kind, FORMATS[kind].least_normal))
    lifted = e.select(tiny, e.fmul(x, e.real(kind, 2.0 ** LIFT[kind])), x)
    zero = _zero_exponent(kind)
    zeros = (e.real(kind, zero + LIFT[kind]), e.real(kind, zero))
    return _split(e, lifted, e.select(tiny, *zeros))


def split_normal(e: Emitter, x: Value) -> Split:
    """The same for a number that is not subnormal."""
    return _split(e, x, e.real(x.type, _zero_exponent(x.type)))


def _split(e: Emitter, x: Value, zero: Value) -> Split:
    kind, form = x.type, FORMATS[x.type]
    integer = form.integer
    root = e.bitcast(e.real(kind, math.sqrt(0.5)), integer)
    one = e.whole(integer, form.bias << form.fraction)
    fraction = e.whole(integer, (1 << form.fraction) - 1)
    moved = e.sub(e.bitcast(x, integer), e.sub(root, one))  # the exponent changes at sqrt(1/2)
    one_plus = e.bitcast(e.add(e.and_(moved, fraction), root), kind)
    biased = e.lshr(moved, e.whole(integer, form.fraction))
    exponent = e.fsub(_number(e, biased, kind), zero)
    return Split(
        exponent, e.fsub(one_plus, e.real(kind, 1.0)), e.sub(moved, e.and_(moved, fraction))
    )


def _zero_exponent(kind: str) -> float:
    """What ``_number`` makes of the biased exponent 0."""
    form = FORMATS[kind]
    return form.bias + (2.0**form.fraction if kind == "double" else 0.0)


def _number(e: Emitter, biased: Value, kind: str) -> Value:
    """A biased exponent as a number; in double plus 2**52, whose last bits it is: no instruction
    converts 64-bit integers before AVX-512.
    """
    if kind == "float":
        return e.sitofp(biased, kind)
    return e.bitcast(e.or_(biased, e.bitcast(e.real(kind, 2.0**52), biased.type)), kind)


def atanh_argument(e: Emitter, f: Value) -> Value:
    """``f / (2 + f)``, of which twice the inverse hyperbolic tangent is ``log(1 + f)``."""
    return e.fdiv(f, e.fadd(f, e.real(f.type, 2.0)))


class Tail(NamedTuple):
    """``log(1 + f) - f``, and what it came from."""

    tail: Value
    s: Value  # f / (2 + f)


def log_tail(e: Emitter, f: Value) -> Tail:
    """``log(1 + f) - f``."""
    s = atanh_argument(e, f)
    z = e.fmul(s, s)
    rest = e.fma(e.fadd(z, z), polynomial(e, z, ATANH_TAIL[f.type]), e.fneg(f))
    return Tail(e.fmul(s, rest), s)


def with_edges(e: Emitter, x: Value, result: Value) -> Value:
    """A logarithm's values at infinity and NaN (they are their own), at zero and below."""
    kind = x.type
    zero = e.real(kind, 0.0)
    result = e.select(e.fcmp("olt", x, e.real(kind, math.inf)), result, x)
    result = e.select(e.fcmp("oeq", x, zero), e.real(kind, -math.inf), result)
    return e.select(e.fcmp("olt", x, zero), e.real(kind, math.nan), result)


def _sum(e: Emitter, whole: Value, high: float, first: Value, small: Value) -> Value:
    """``whole * high``, which is exact, and the rest; in double the rest may be rounded by itself."""
    factor = e.real(whole.type, high)
    if whole.type == "double":
        return e.fma(whole, factor, e.fadd(first, small))
    total = quick_two_sum(e, e.fmul(whole, factor), first)
    return e.fadd(total.high, e.fadd(total.low, small))


def _natural(e: Emitter, exponent: Value, f: Value, tail: Value) -> Value:
    high, low = LN2[f.type]
    return _sum(e, exponent, high, f, e.fma(exponent, e.real(f.type, low), tail))


def log(e: Emitter, x: Value) -> Value:
    """``k ln 2 + log(1 + f)`` (FDLIBM 1993)."""
    part = split(e, x)
    return with_edges(e, x, _natural(e, part.exponent, part.f, log_tail(e, part.f).tail))


def log2(e: Emitter, x: Value) -> Value:
    """``k + log(1 + f) log2(e)`` (FDLIBM 1993); f itself is the larger part of that."""
    kind, part = x.type, split(e, x)
    excess = LOG2_E_LESS_1[kind]
    tail = e.fmul(log_tail(e, part.f).tail, e.real(kind, 1 + excess))
    small = e.fma(part.f, e.real(kind, excess), tail)
    return with_edges(e, x, _sum(e, part.exponent, 1.0, part.f, small))


def log10(e: Emitter, x: Value) -> Value:
    """``k log10(2) + log(1 + f) log10(e)`` (FDLIBM 1993); a half of f is the larger part of that."""
    kind, part = x.type, split(e, x)
    excess, (high, low) = LOG10_E_LESS_HALF[kind], LOG10_2[kind]
    tail = e.fmul(log_tail(e, part.f).tail, e.real(kind, 0.5 + excess))
    small = e.fma(part.f, e.real(kind, excess), e.fma(part.exponent, e.real(kind, low), tail))
    first = e.fmul(part.f, e.real(kind, 0.5))
    return with_edges(e, x, _sum(e, part.exponent, high, first, small))


def log1p(e: Emitter, x: Value) -> Value:
    """``log(u) + c / u`` of ``u + c = 1 + x`` (FDLIBM 1993); where u needs no scaling, f is x itself."""
    kind = x.type
    u, c = two_sum(e, e.real(kind, 1.0), x)
    part = split_normal(e, u)
    zero = e.real(kind, 0.0)
    unscaled = e.fcmp("oeq", part.exponent, zero)
    f = e.select(unscaled, x, part.f)
    tail, s = log_tail(e, f)
    # 1 / (1 + f) is nearly 1 - 2 s + 2 s**2, and c is less than the last place of u
    half_slope = e.fma(s, e.fsub(s, e.real(kind, 1.0)), e.real(kind, 0.5))
    c = e.select(unscaled, zero, e.fmul(c, _four_inverses(e, part.power, kind)))
    tail = e.fma(e.fmul(c, e.real(kind, 0.5)), half_slope, tail)
    result = with_edges(e, u, _natural(e, part.exponent, f, tail))
    return e.copysign(result, x)


def _four_inverses(e: Emitter, power: Value, kind: str) -> Value:
    """``2**(2 - k)`` from the bits of 2**k: a normal number up to the largest k."""
    form = FORMATS[kind]
    bits = e.sub(e.whole(form.integer, (2 * form.bias + 2) << form.fraction), power)
    return e.bitcast(bits, kind)
