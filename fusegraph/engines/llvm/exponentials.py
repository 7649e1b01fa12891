"""Exponentials: exp, exp2, expm1, the hyperbolic functions and the logistic one, as IR.

In: an Emitter and Values of type ``float`` or ``double``. Out: the Value of the function, as
straight-line code over scalars. ``x = n ln 2 + r`` with two parts of ln 2 (Cody and Waite, 1980). It
is scaled by two powers of two, so that subnormal results are rounded once (J.-M. Muller, Elementary
Functions, 3rd ed., chapter 11). A NaN passes through every comparison here and every product, so it
needs no select of its own. Coefficients are near-minimax, fitted on Chebyshev points in 300-bit
arithmetic and rounded; the error of each fit stands beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fusegraph.engines.llvm.formats import FORMATS, power_of_two
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import Pair, polynomial, quick_two_sum, two_sum

# fmt: off
EXPM1_TAIL = {  # (exp(r) - 1 - r) / r**2, |r| <= 0.3468: 2**-29.4, 2**-59.3
    "float": (
        0.5, 0.1666666716337204, 0.041666463017463684, 0.00833331048488617,
        0.0013933685841038823, 0.00019891030387952924,
    ),
    "double": (
        0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326112, 0.001388888888888373,
        0.0001984126987490126, 2.4801587325605324e-05, 2.7557255297969643e-06,
        2.755727357010214e-07, 2.5105259538448494e-08, 2.0914717341716378e-09,
    ),
}
EXP_TAIL = {  # the same for exp, whose 1 is larger: 2**-28.2, 2**-57.9 of exp(r)
    "float": (
        0.4999999403953552, 0.1666651964187622, 0.041668254882097244, 0.00836880598217249,
        0.001382177695631981,
    ),
    "double": (
        0.5000000000000011, 0.16666666666666424, 0.04166666666652694, 0.008333333333486435,
        0.0013888888944368978, 0.0001984126952525561, 2.4801492402202124e-05,
        2.7557568677832605e-06, 2.7630479991736945e-07, 2.5005927458068118e-08,
    ),
}
EXP2 = {  # (2**r - 1) / r, |r| <= 0.5001: 2**-32.4, 2**-59.2 of 2**r
    "float": (
        0.6931471824645996, 0.24022650718688965, 0.05550405755639076, 0.009618078358471394,
        0.0013337276177480817, 0.00015455948596354574, 1.4476333490165416e-05,
    ),
    "double": (
        0.6931471805599453, 0.24022650695910064, 0.05550410866482293, 0.009618129107632089,
        0.0013333558146166064, 0.00015403530387310177, 1.525273403551376e-05,
        1.3215491381146244e-06, 1.0177986047191982e-07, 7.0533042866719016e-09,
        4.465494723339027e-10, 2.7816701188613965e-11,
    ),
}
TANH = (  # (tanh(x) / x - 1) / x**2 in x**2, |x| <= 0.56: 2**-25.1 of tanh; float only; one zero more
    -0.33332937955856323, 0.13319990038871765, -0.05261197313666344, 0.016313431784510612, 0.0,
)
TANH_EXP = (  # ((exp(2 r) - 1) / r - 2) / r, |r| <= 0.1734: 2**-28.3 of exp(2 r); float only
    1.9999966621398926, 1.3333232402801514, 0.6670335531234741, 0.2677377164363861,
    0.08012515306472778,
)
TANH_EDGE = 0.56  # above atanh(1/2), where the division's error is half a unit of tanh
SINH = {  # (sinh(x) / x - 1) / x**2 in x**2, |x| <= 1: 2**-31.4, 2**-62.6
    "float": (
        0.1666666716337204, 0.008333315141499043, 0.00019841664470732212, 2.7899995984626003e-06,
    ),
    "double": (
        0.16666666666666666, 0.008333333333333522, 0.0001984126984112911, 2.7557319275792084e-06,
        2.50520979156216e-08, 1.6060227824469683e-10, 7.576785184410611e-13, 4.5345152122434276e-15,
    ),
}
# fmt: on


class Ends(NamedTuple):
    """Where exponentials begin and end."""

    least: float  # below, exp is zero; at it, rounding to zero is certain
    most: float  # above, exp is infinite
    minus_one: float  # below, expm1 rounds to -1, and 1 + exp to 1
    flat: float  # above, tanh rounds to 1


ENDS = {"float": Ends(-104.5, 89.0, -18.0, 9.5), "double": Ends(-746.5, 710.0, -38.0, 20.0)}
LN2 = {  # the first part has zeros enough that times an exponent it is exact
    "float": (0.693145751953125, 1.4286068203094173e-06),
    "double": (0.6931471805601177, -1.7239444525614835e-13),
}
LIFT = 64  # powers of two by which results that may be subnormal are too large at first


class Reduced(NamedTuple):
    """``x = n ln 2 + r``; the lowest bits of the integer ``biased`` are the exponent of a power."""

    r: Value
    rest: Value  # what r was rounded by
    n: Value
    biased: Value


def at_most(e: Emitter, x: Value, most: float) -> Value:
    """``x``, or ``most`` where it is larger; a NaN stays."""
    bound = e.real(x.type, most)
    return e.select(e.fcmp("ogt", x, bound), bound, x)


def clamped(e: Emitter, x: Value, least: float, most: float) -> Value:
    """``x`` within bounds; a NaN stays."""
    bound = e.real(x.type, least)
    return at_most(e, e.select(e.fcmp("olt", x, bound), bound, x), most)


def nearest(e: Emitter, x: Value, factor: float = 1.0, more: int = 0) -> tuple[Value, Value]:
    """The whole number n nearest to ``x * factor``, and an integer whose lowest bits are the exponent
    of ``2**(n + more)``.

    Those are the bits of ``x + 1.5 * 2**p`` and the bias; no instruction converts before AVX-512. NaN
    gives a NaN and bits of no meaning.
    """
    form = FORMATS[x.type]
    magic = e.real(x.type, 1.5 * 2.0**form.fraction + form.bias + more)
    shifted = e.fma(x, e.real(x.type, factor), magic)
    return e.fsub(shifted, magic), e.bitcast(shifted, form.integer)


def scaled(e: Emitter, y: Value, n: Value, biased: Value) -> Value:
    """``y * 2**n``, rounded once: infinite, subnormal and zero where it is.

    Half the power, which ``biased`` is, and 2, so that 2**n itself may be infinite; or, where the
    result may be subnormal, 2**(n + 63) and 2**-63.
    """
    power, small = lifted_power(e, n, biased, y.type)
    last = e.select(small, e.real(y.type, 2.0 ** (1 - LIFT)), e.real(y.type, 2.0))
    return e.fmul(e.fmul(y, power), last)


def lifted_power(e: Emitter, n: Value, biased: Value, kind: str) -> tuple[Value, Value]:
    """The power of ``biased``, ``2**LIFT`` times as large where n is near the least exponent; where?"""
    small = e.fcmp("olt", n, e.real(kind, 22.0 - FORMATS[kind].bias))
    lifted = e.add(biased, e.whole(biased.type, LIFT))
    return power_of_two(e, e.select(small, lifted, biased), kind), small


def reduce(e: Emitter, x: Value, more: int = 0) -> Reduced:
    """Split a clamped argument of exp."""
    first, second = LN2[x.type]
    n, biased = nearest(e, x, 1 / math.log(2), more)
    near = e.fma(n, e.real(x.type, -first), x)
    low = e.real(x.type, -second)
    r = e.fma(n, low, near)
    return Reduced(r, e.fma(n, low, e.fsub(near, r)), n, biased)


def expm1_tail(e: Emitter, part: Reduced) -> Value:
    """``exp(r) - 1 - r``; in double with the rest of r, which in float would not be seen."""
    tail = rough_tail(e, part.r)
    return e.fadd(tail, part.rest) if part.r.type == "double" else tail


def rough_tail(e: Emitter, r: Value) -> Value:
    """``exp(r) - 1 - r`` without the rest of r."""
    return e.fmul(e.fmul(r, r), polynomial(e, r, EXPM1_TAIL[r.type]))


def exp_of_reduced(e: Emitter, r: Value) -> Value:
    """``exp(r)`` for ``|r| <= ln(2) / 2``, as ``1 + r (1 + r p(r))``."""
    one = e.real(r.type, 1.0)
    return e.fma(e.fma(polynomial(e, r, EXP_TAIL[r.type]), r, one), r, one)


def exp(e: Emitter, x: Value) -> Value:
    """``2**n exp(r)`` (Cody and Waite 1980)."""
    ends = ENDS[x.type]
    part = reduce(e, clamped(e, x, ends.least, ends.most), more=-1)
    return scaled(e, exp_of_reduced(e, part.r), part.n, part.biased)


def exp2(e: Emitter, x: Value) -> Value:
    """``2**n 2**r`` (Cody and Waite 1980); the argument splits exactly."""
    form = FORMATS[x.type]
    inside = clamped(e, x, -(form.bias + form.fraction + 2.0), form.bias + 1.0)
    n, biased = nearest(e, inside, more=-1)
    return scaled(e, exp2_of_reduced(e, e.fsub(inside, n)), n, biased)


def exp2_of_reduced(e: Emitter, r: Value, precision: str = "") -> Value:
    """``2**r`` for ``|r| <= 1/2``; of float's precision in double where that is asked for."""
    return e.fma(polynomial(e, r, EXP2[precision or r.type]), r, e.real(r.type, 1.0))


def half_expm1(e: Emitter, part: Reduced, tail: Value) -> Pair:
    """``2**n (r + tail) + (2**n - 1)``, halved so that 2**n may be just infinite, with its error."""
    kind = part.r.type
    power = power_of_two(e, part.biased, kind)
    total = quick_two_sum(e, e.fsub(power, e.real(kind, 0.5)), e.fmul(power, part.r))
    return quick_two_sum(e, total.high, e.fma(power, tail, total.low))


def expm1(e: Emitter, x: Value) -> Value:
    """The sum of ``2**n (exp(r) - 1)`` and ``2**n - 1`` (r as in Cody and Waite 1980)."""
    form, ends = FORMATS[x.type], ENDS[x.type]
    part = reduce(e, clamped(e, x, ends.minus_one * 2, ends.most), more=-1)
    half = half_expm1(e, part, expm1_tail(e, part)).high
    tiny = e.fcmp("olt", e.fabs(x), e.real(x.type, 2.0 ** -(form.fraction + 2)))
    return e.select(tiny, x, e.copysign(e.fadd(half, half), x))  # a half may be no number


def tanh(e: Emitter, x: Value) -> Value:
    """float: a polynomial up to 0.56, ``1 - 2 / (exp(2 a) + 1)`` above, as in Cephes (Moshier 1989);
    double: ``t / (t + 1)`` of ``t = (exp(2 a) - 1) / 2``, as in FDLIBM (1993).
    """
    a = at_most(e, e.fabs(x), ENDS[x.type].flat)
    if x.type == "float":
        return e.copysign(_tanh_float(e, a), x)
    part = reduce(e, e.fadd(a, a), more=-1)
    t = half_expm1(e, part, rough_tail(e, part.r))
    one = e.real("double", 1.0)
    below = two_sum(e, one, t.high)
    quotient = e.fdiv(t.high, below.high)
    # what both were rounded by, without which the error passed 2 ulp; 1 - quotient is 1 / below
    rest = e.fma(e.fneg(quotient), e.fadd(below.low, t.low), t.low)
    return e.copysign(e.fma(rest, e.fsub(one, quotient), quotient), x)


def _tanh_float(e: Emitter, a: Value) -> Value:
    """Both ways through one chain of multiplications, whose numbers are chosen for each element.

    A choice runs beside the multiplications, by which two chains were bound: GELU of 100,000 in cache
    took 8.1 ns a vector of 16 with two, and takes 7.1. Both sides of ``2 / (exp(2 a) + 1)`` are divided
    by ``2**n``, so that the exponential is not rounded by itself. What one float of ln 2 lacks is, times
    n, under 0.04 ulp of the result.
    """
    one = e.real("float", 1.0)
    large = e.fcmp("ogt", a, e.real("float", TANH_EDGE))

    def chosen(above: float | Value, below: float | Value) -> Value:
        values = (e.real("float", v) if isinstance(v, float) else v for v in (above, below))
        return e.select(large, *values)

    n, biased = nearest(e, a, -2 / math.log(2))
    r = e.fma(n, e.real("float", math.log(2) / 2), a)  # 2 a = 2 r - n ln 2
    z = e.fmul(a, a)
    coefficients = [chosen(*pair) for pair in zip(TANH_EXP, TANH, strict=True)]
    series = polynomial(e, chosen(r, z), coefficients)
    small = e.fma(series, chosen(r, e.fmul(a, z)), chosen(2.0, a))  # above: (exp(2 r) - 1) / r
    inverse = power_of_two(e, biased, "float")
    twice = e.bitcast(e.add(e.bitcast(inverse, "i32"), e.whole("i32", 1 << 23)), "float")
    below = e.fma(small, r, e.fadd(one, inverse))
    return e.select(large, e.fsub(one, e.fdiv(twice, below)), small)


def sigmoid(e: Emitter, x: Value) -> Value:
    """``1 / (1 + y)`` or ``y / (1 + y)`` of ``y = exp(-|x|)``, with its subnormal results.

    ``1 / (1 + exp(-x))`` is zero where they begin. The quotient is corrected by what both sides were
    rounded by, to first order. The argument of y is reduced as in Cody and Waite 1980.
    """
    one, zero = e.real(x.type, 1.0), e.real(x.type, 0.0)
    size = e.fabs(x)
    bound = e.real(x.type, -ENDS[x.type].least)
    part = reduce(e, e.fneg(e.select(e.fcmp("ogt", size, bound), bound, size)))
    power, small = lifted_power(e, part.n, part.biased, x.type)
    down = e.select(small, e.real(x.type, 2.0**-LIFT), one)
    y = quick_two_sum(e, one, e.fadd(part.r, expm1_tail(e, part)))
    y = Pair(e.fmul(y.high, power), e.fmul(y.low, power))
    below = quick_two_sum(e, one, e.fmul(y.high, down))
    below = Pair(below.high, e.fadd(below.low, y.low))
    negative = e.fcmp("olt", x, zero)
    quotient = e.fdiv(e.select(negative, y.high, one), below.high)
    inverse = e.select(negative, e.fsub(one, quotient), quotient)
    above = e.select(negative, y.low, zero)
    rest = e.fma(e.fneg(quotient), below.low, above)
    result = e.fma(rest, inverse, quotient)
    return e.fmul(result, e.select(negative, down, one))


def _quarter_exp(e: Emitter, a: Value) -> Pair:
    """``exp(a) / 4`` for ``a >= 0`` and its error, infinite only where half of it is."""
    part = reduce(e, at_most(e, a, ENDS[a.type].most + 0.65), more=-2)
    power = power_of_two(e, part.biased, a.type)
    y = quick_two_sum(e, e.real(a.type, 1.0), e.fadd(part.r, expm1_tail(e, part)))
    return Pair(e.fmul(y.high, power), e.fmul(y.low, power))


def sinh(e: Emitter, x: Value) -> Value:
    """A polynomial up to 1, ``(y - 1 / y) / 2`` of ``y = exp(a)`` above.

    Cody and Waite 1980, chapter 12.
    """
    kind, a = x.type, e.fabs(x)
    two = e.real(kind, 2.0)
    quarter = _quarter_exp(e, a)
    inverse = e.fdiv(e.real(kind, 0.125), quarter.high)
    large = e.fma(quarter.high, two, e.fma(quarter.low, two, e.fneg(inverse)))
    z = e.fmul(a, a)
    small = e.fma(e.fmul(a, z), polynomial(e, z, SINH[kind]), a)
    return e.copysign(e.select(e.fcmp("ogt", a, e.real(kind, 1.0)), large, small), x)


def cosh(e: Emitter, x: Value) -> Value:
    """``(y + 1 / y) / 2`` of ``y = exp(a)`` (Cody and Waite 1980, chapter 12)."""
    two = e.real(x.type, 2.0)
    quarter = _quarter_exp(e, e.fabs(x))
    inverse = e.fdiv(e.real(x.type, 0.125), quarter.high)
    return e.fma(quarter.high, two, e.fma(quarter.low, two, inverse))
