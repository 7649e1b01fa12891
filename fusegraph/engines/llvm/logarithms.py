"""Logarithms, powers and what is made of them, as IR.

In: an Emitter and Values of type ``float`` or ``double``. Out: the Value of the function, straight-line
code over scalars. ``x = 2**k (1 + f)`` with ``1 + f`` in [sqrt(1/2), sqrt(2)), and ``log(1 + f) =
2 atanh(s)`` of ``s = f / (2 + f)``, written ``f - s (f - 2 s**2 p(s**2))`` so that only a small term is
rounded (K. Ng, FDLIBM, 1993). Coefficients are near-minimax, fitted on Chebyshev points in 200-bit
arithmetic; the error of each fit stands beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fusegraph.engines.llvm.exponentials import (
    FORMATS,
    exp,
    exp2,
    or_nan,
    through_double,
)
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import Pair, polynomial, quick_two_sum, two_product, two_sum

# fmt: off
ATANH_TAIL = {  # (atanh(s) / s - 1) / s**2 in s**2, |s| <= 0.1718: 2**-30.7, 2**-59.7
    "float": (0.3333333432674408, 0.2000006139278412, 0.14275367558002472, 0.11666381359100342),
    "double": (
        0.3333333333333333, 0.20000000000000445, 0.14285714285397969, 0.11111111196726314,
        0.0909089772726325, 0.07693124894098052, 0.0663425165639738, 0.06544722572623156,
    ),
}
# fmt: on
LEAST_NORMAL = {"float": 2.0**-126, "double": 2.0**-1022}
LIFT = {"float": 25, "double": 54}  # powers of two that make a subnormal normal
LOG2_E = (1.4426950408889634, 2.0355273740931033e-17)  # a double, and the rest
LOG10_E = (0.4342944819032518, 1.098319650216765e-17)
LOG10_2 = (0.3010299956640665, -8.532344317057107e-14)  # 40 bits, and the rest


class Split(NamedTuple):
    """``2**exponent * (1 + f)`` as numbers."""

    exponent: Value
    f: Value
    power: Value  # the bits of the exponent, in place: what other numbers are scaled by


def split(e: Emitter, x: Value) -> Split:
    """Take a positive finite number apart; what other arguments give is replaced afterwards."""
    kind, form = x.type, FORMATS[x.type]
    integer = form.integer
    tiny = e.fcmp("olt", x, e.real(kind, LEAST_NORMAL[kind]))
    lifted = e.select(tiny, e.fmul(x, e.real(kind, 2.0 ** LIFT[kind])), x)
    root = e.bitcast(e.real(kind, math.sqrt(0.5)), integer)
    bits = e.bitcast(lifted, integer)
    top = e.whole(integer, ~((1 << form.fraction) - 1))
    power = e.and_(e.sub(bits, root), top)
    one_plus = e.bitcast(e.sub(bits, power), kind)
    exponent = _exponent(e, power, kind)
    less = e.select(tiny, e.real(kind, float(LIFT[kind])), e.real(kind, 0.0))
    f = e.fsub(one_plus, e.real(kind, 1.0))
    return Split(e.fsub(exponent, less), f, power)


def _exponent(e: Emitter, power: Value, kind: str) -> Value:
    """``power >> fraction`` as a number, from the bits of ``1.5 * 2**p + k``: no instruction converts
    64-bit integers before AVX-512.
    """
    form = FORMATS[kind]
    magic = e.real(kind, 1.5 * 2.0**form.fraction)
    # A logical shift of a biased power, so that it is never negative.
    bias = e.whole(power.type, form.bias << form.fraction)
    k = e.lshr(e.add(power, bias), e.whole(power.type, form.fraction))
    bits = e.add(k, e.bitcast(magic, power.type))
    shifted = e.bitcast(bits, kind)
    return e.fsub(shifted, e.real(kind, 1.5 * 2.0**form.fraction + form.bias))


def log_tail(e: Emitter, f: Value) -> Value:
    """``log(1 + f) - f``."""
    s = e.fdiv(f, e.fadd(f, e.real(f.type, 2.0)))
    z = e.fmul(s, s)
    rest = e.fsub(f, e.fmul(e.fadd(z, z), polynomial(e, z, ATANH_TAIL[f.type])))
    return e.fneg(e.fmul(s, rest))


def with_edges(e: Emitter, x: Value, result: Value) -> Value:
    """A logarithm's values at infinity, zero, below it and at NaN."""
    kind = x.type
    infinity = e.real(kind, math.inf)
    result = e.select(e.fcmp("oeq", x, infinity), infinity, result)
    zero = e.real(kind, 0.0)
    result = e.select(e.fcmp("oeq", x, zero), e.real(kind, -math.inf), result)
    result = e.select(e.fcmp("olt", x, zero), e.real(kind, math.nan), result)
    return or_nan(e, x, result)


def log(e: Emitter, x: Value) -> Value:
    """``k ln 2 + log(1 + f)``."""
    part = split(e, x)
    high, low = (e.real(x.type, c) for c in FORMATS[x.type].ln2)
    tail = e.fma(part.exponent, low, log_tail(e, part.f))
    total = quick_two_sum(e, e.fmul(part.exponent, high), part.f)
    return with_edges(e, x, e.fadd(total.high, e.fadd(total.low, tail)))


def log1p(e: Emitter, x: Value) -> Value:
    """``log(u) + c / u`` of ``u + c = 1 + x``; where u needs no scaling, f is x itself."""
    kind = x.type
    u, c = two_sum(e, e.real(kind, 1.0), x)
    infinity = e.fcmp("oeq", e.fabs(x), e.real(kind, math.inf))
    c = e.select(infinity, e.real(kind, 0.0), c)
    part = split(e, u)
    zero = e.real(kind, 0.0)
    unscaled = e.fcmp("oeq", part.exponent, zero)
    f = e.select(unscaled, x, part.f)
    correction = e.select(unscaled, zero, e.fdiv(c, u))
    high, low = (e.real(kind, number) for number in FORMATS[kind].ln2)
    tail = e.fma(part.exponent, low, e.fadd(log_tail(e, f), correction))
    total = quick_two_sum(e, e.fmul(part.exponent, high), f)
    result = with_edges(e, u, e.fadd(total.high, e.fadd(total.low, tail)))
    tiny = e.fcmp("olt", e.fabs(x), e.real(kind, 2.0 ** -(FORMATS[kind].fraction + 2)))
    return e.select(tiny, x, or_nan(e, x, result))  # keeps the sign of zero


def _scaled_log(
    e: Emitter, x: Value, base: tuple[float, float], factor: tuple[float, float]
) -> Value:
    """``k * base + log(1 + f) * factor``, both constants in two parts; double."""
    part = split(e, x)
    wide = quick_two_sum(e, part.f, log_tail(e, part.f))
    high, low = (e.real("double", number) for number in factor)
    product = two_product(e, wide.high, high)
    tail = e.fma(wide.low, high, e.fma(wide.high, low, product.low))
    whole = e.fmul(part.exponent, e.real("double", base[0]))
    total = two_sum(e, whole, product.high)
    small = e.fma(part.exponent, e.real("double", base[1]), e.fadd(total.low, tail))
    return with_edges(e, x, e.fadd(total.high, small))


@through_double
def log2(e: Emitter, x: Value) -> Value:
    """``k + log(1 + f) log2(e)``."""
    return _scaled_log(e, x, (1.0, 0.0), LOG2_E)


@through_double
def log10(e: Emitter, x: Value) -> Value:
    """``k log10(2) + log(1 + f) log10(e)``."""
    return _scaled_log(e, x, LOG10_2, LOG10_E)


@through_double
def cbrt(e: Emitter, x: Value) -> Value:
    """``exp2(log2(a) / 3)``; of float's precision."""
    third = e.fmul(_scaled_log(e, e.fabs(x), (1.0, 0.0), LOG2_E), e.real("double", 1 / 3))
    return or_nan(e, x, e.copysign(exp2(e, third), x))


@through_double
def hypot(e: Emitter, x: Value, y: Value) -> Value:
    """``sqrt(x**2 + y**2)``: squares of floats are exact in double. Infinity wins over NaN."""
    root = e.sqrt(e.fma(x, x, e.fmul(y, y)))
    infinity = e.real("double", math.inf)
    for operand in (x, y):
        root = e.select(e.fcmp("oeq", e.fabs(operand), infinity), infinity, root)
    return root


@through_double
def logaddexp(e: Emitter, x: Value, y: Value) -> Value:
    """``max + log1p(exp(-|x - y|))``; equal infinities have no difference."""
    top, away = _top_and_distance(e, x, y)
    return _sum_or_nan(e, x, y, top, log1p(e, exp(e, e.fneg(away))))


@through_double
def logaddexp2(e: Emitter, x: Value, y: Value) -> Value:
    """``max + log2(1 + 2**-|x - y|)``."""
    top, away = _top_and_distance(e, x, y)
    nats = log1p(e, exp2(e, e.fneg(away)))
    return _sum_or_nan(e, x, y, top, e.fmul(nats, e.real("double", 1 / math.log(2))))


def _top_and_distance(e: Emitter, x: Value, y: Value) -> Pair:
    top = e.select(e.fcmp("ogt", x, y), x, y)
    equal = e.fcmp("oeq", x, y)
    return Pair(top, e.select(equal, e.real("double", 0.0), e.fabs(e.fsub(x, y))))


def _sum_or_nan(e: Emitter, x: Value, y: Value, top: Value, more: Value) -> Value:
    return or_nan(e, x, or_nan(e, y, e.fadd(top, more)))


@through_double
def power(e: Emitter, x: Value, y: Value) -> Value:
    """``exp2(y log2(a))`` with the sign of an odd power; of float's precision.

    C's special values (ISO C, F.10.4.4): 1 to anything and anything to 0 are 1.
    """
    kind = "double"
    zero, one, infinity = (e.real(kind, c) for c in (0.0, 1.0, math.inf))
    a = e.fabs(x)
    exponent = e.fmul(y, _scaled_log(e, a, (1.0, 0.0), LOG2_E))
    size = exp2(e, exponent)
    size = e.select(e.fcmp("uno", exponent, exponent), exponent, size)
    # (-1) ** inf is 1: there the product is 0 * inf
    size = e.select(e.fcmp("oeq", a, one), or_nan(e, y, one), size)
    whole = e.fcmp("oeq", e.floor(y), y)
    half = e.fmul(y, e.real(kind, 0.5))
    odd = e.and_(whole, e.fcmp("une", e.floor(half), half))
    negative = e.fcmp("olt", e.copysign(one, x), zero)
    signed = e.select(e.and_(negative, odd), e.fneg(size), size)
    finite_negative = e.and_(e.fcmp("olt", x, zero), e.fcmp("olt", a, infinity))
    not_whole = e.xor(whole, e.whole("i1", 1))
    result = e.select(e.and_(finite_negative, not_whole), e.real(kind, math.nan), signed)
    result = or_nan(e, x, or_nan(e, y, result))
    certain = e.fcmp("oeq", x, one)
    return e.select(e.fcmp("oeq", y, zero), one, e.select(certain, one, result))
