"""Logarithms, as IR.

In: an Emitter and Values of type ``float`` or ``double``. Out: the Value of the function, straight-line
code over scalars. ``x = 2**k (1 + f)`` with ``1 + f`` in [sqrt(1/2), sqrt(2)), and ``log(1 + f) =
2 atanh(s)`` of ``s = f / (2 + f)``, written ``f - s (f - 2 s**2 p(s**2))`` so that only a small term is
rounded (K. Ng, FDLIBM, 1993). Coefficients are near-minimax, fitted on Chebyshev points in 200-bit
arithmetic; the error of each fit stands beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fusegraph.engines.llvm.exponentials import FORMATS, or_nan
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import polynomial, quick_two_sum, two_product, two_sum

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
LOG2_E = {  # a number, and the rest
    "float": (1.4426950216293335, 1.925963033500011e-08),
    "double": (1.4426950408889634, 2.0355273740931033e-17),
}
LOG10_E = {
    "float": (0.4342944920063019, -1.0103049952192578e-08),
    "double": (0.4342944819032518, 1.098319650216765e-17),
}
LOG10_2 = {  # 16 and 40 bits, so that times an exponent it is exact, and the rest
    "float": (0.301025390625, 4.605039066518657e-06),
    "double": (0.3010299956640665, -8.532344317057107e-14),
}

Parts = tuple[float, float]


class Split(NamedTuple):
    """``2**exponent * (1 + f)`` as numbers."""

    exponent: Value
    f: Value
    power: Value  # the bits of the exponent, in place: what other numbers are scaled by


def split(e: Emitter, x: Value) -> Split:
    """Take a positive finite number apart; what other arguments give is replaced afterwards."""
    kind = x.type
    tiny = e.fcmp("olt", x, e.real(kind, LEAST_NORMAL[kind]))
    part = split_normal(e, e.select(tiny, e.fmul(x, e.real(kind, 2.0 ** LIFT[kind])), x))
    less = e.select(tiny, e.real(kind, float(LIFT[kind])), e.real(kind, 0.0))
    return Split(e.fsub(part.exponent, less), part.f, part.power)


def split_normal(e: Emitter, x: Value) -> Split:
    """The same for a number that is not subnormal."""
    kind, form = x.type, FORMATS[x.type]
    integer = form.integer
    root = e.bitcast(e.real(kind, math.sqrt(0.5)), integer)
    bits = e.bitcast(x, integer)
    top = e.whole(integer, ~((1 << form.fraction) - 1))
    power = e.and_(e.sub(bits, root), top)
    one_plus = e.bitcast(e.sub(bits, power), kind)
    return Split(_exponent(e, power, kind), e.fsub(one_plus, e.real(kind, 1.0)), power)


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
    return _tail_of_quotient(e, f, _quotient(e, f))


def _quotient(e: Emitter, f: Value) -> Value:
    return e.fdiv(f, e.fadd(f, e.real(f.type, 2.0)))


def _tail_of_quotient(e: Emitter, f: Value, s: Value) -> Value:
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
    s = _quotient(e, f)
    # 1 / (1 + f) is nearly 1 - 2 s + 2 s**2, and c is less than the last place of u
    half_slope = e.fma(s, e.fsub(s, e.real(kind, 1.0)), e.real(kind, 0.5))
    c = e.select(unscaled, zero, e.fmul(c, _twice_inverse(e, part.power, kind)))
    high, low = (e.real(kind, number) for number in FORMATS[kind].ln2)
    tail = e.fma(part.exponent, low, e.fma(c, half_slope, _tail_of_quotient(e, f, s)))
    total = quick_two_sum(e, e.fmul(part.exponent, high), f)
    result = with_edges(e, u, e.fadd(total.high, e.fadd(total.low, tail)))
    tiny = e.fcmp("olt", e.fabs(x), e.real(kind, 2.0 ** -(FORMATS[kind].fraction + 2)))
    return e.select(tiny, x, or_nan(e, x, result))  # keeps the sign of zero


def _twice_inverse(e: Emitter, power: Value, kind: str) -> Value:
    """``2**(1 - k)`` from the bits of k in place; zero for the largest k."""
    form = FORMATS[kind]
    two = e.whole(form.integer, (form.bias + 1) << form.fraction)
    return e.bitcast(e.sub(two, power), kind)


def _scaled_log(e: Emitter, x: Value, base: Parts, factor: Parts) -> Value:
    """``k * base + log(1 + f) * factor``, both constants in two parts."""
    kind = x.type
    part = split(e, x)
    wide = quick_two_sum(e, part.f, log_tail(e, part.f))
    high, low = (e.real(kind, number) for number in factor)
    product = two_product(e, wide.high, high)
    tail = e.fma(wide.low, high, e.fma(wide.high, low, product.low))
    whole = e.fmul(part.exponent, e.real(kind, base[0]))
    total = quick_two_sum(e, whole, product.high)
    small = e.fadd(total.low, tail)
    if base[1]:
        small = e.fma(part.exponent, e.real(kind, base[1]), small)
    return with_edges(e, x, e.fadd(total.high, small))


def log2(e: Emitter, x: Value) -> Value:
    """``k + log(1 + f) log2(e)``."""
    return _scaled_log(e, x, (1.0, 0.0), LOG2_E[x.type])


def log10(e: Emitter, x: Value) -> Value:
    """``k log10(2) + log(1 + f) log10(e)``."""
    return _scaled_log(e, x, LOG10_2[x.type], LOG10_E[x.type])
