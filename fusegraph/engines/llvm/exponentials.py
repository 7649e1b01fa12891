"""Exponentials: exp, exp2, expm1, the hyperbolic functions and erf, as IR.

In: an Emitter and Values of type ``float`` or ``double``. Out: the Value of the function, as
straight-line code over scalars. ``x = n ln 2 + r`` with two parts of ln 2 (Cody and Waite, 1980). It
is scaled by two powers of two, so that subnormal results are rounded once (J.-M. Muller, Elementary
Functions, 3rd ed., chapter 11). Coefficients are near-minimax, fitted on Chebyshev points in 200-bit
arithmetic and rounded; the error of each fit stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

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
EXP2 = {  # (2**r - 1) / r, |r| <= 0.5001: 2**-32.5, 2**-68.7
    "float": (
        0.6931471824645996, 0.24022650718688965, 0.05550410971045494, 0.009618056938052177,
        0.0013333501992747188, 0.00015461468137800694, 1.529734072391875e-05,
    ),
    "double": (
        0.6931471805599453, 0.24022650695910072, 0.05550410866482158, 0.009618129107628484,
        0.0013333558146428445, 0.00015403530393362725, 1.5252733804051115e-05,
        1.3215486816031034e-06, 1.0178086021199822e-07, 7.054894372547497e-09,
        4.445530302729252e-10, 2.57335903859786e-11, 1.3716972592177838e-12,
    ),
}
TANH = (  # (tanh(x) / x - 1) / x**2 in x**2, |x| <= 0.65: 2**-28.6; float only
    -0.3333333432674408, 0.13333290815353394, -0.053956348448991776, 0.021746186539530754,
    -0.00827245693653822, 0.0022149027790874243,
)
ERF = (  # erf(x) / x in x**2, |x| <= 1: 2**-51.2; for float, in double
    1.1283791670955121, -0.376126389031744, 0.11283791670580423, -0.026866170586496874,
    0.005223977154105304, -0.0008548304871782741, 0.00012054681918310599,
    -1.4913300906316395e-05, 1.631035651387174e-06, -1.5188281247335167e-07, 9.428596956834164e-09,
)
ERFC_LOG = (  # log(erfc(x)) in x, 1 <= x <= 4.1: 2**-40.4; for float, in double
    -7.91020789639804e-07, -1.1283678557579875, -0.6366823789791151, -0.10257698965790941,
    0.01872795417739857, 0.0007891344315196411, -0.002316155280685759, 0.001090293021109796,
    -0.00033151257218039465, 7.359271113479273e-05, -1.214665784209209e-05, 1.4609590614718491e-06,
    -1.2139447181823438e-07, 6.23734201359275e-09, -1.4935207738326828e-10,
)
# fmt: on


class Format(NamedTuple):
    """A floating-point type, and where its exponential begins and ends."""

    integer: str
    fraction: int  # bits
    bias: int
    ln2: tuple[float, float]  # the first part has zeros enough that times an exponent it is exact
    least: float  # below, exp is zero; at it, rounding to zero is certain
    most: float  # above, exp is infinite
    minus_one: float  # below, expm1 rounds to -1
    plain: float  # above, expm1 rounds to exp
    flat: float  # above, tanh rounds to 1


FORMATS = {
    "float": Format(
        "i32", 23, 127, (0.693145751953125, 1.4286068203094173e-06), -104.5, 89.0, -18.0, 30.0, 9.5
    ),
    "double": Format(
        "i64", 52, 1023, (0.6931471805601177, -1.7239444525614835e-13), -746.5, 710.0, -38.0, 40.0,
        20.0,
    ),
}  # fmt: skip


class Reduced(NamedTuple):
    """``x = n ln 2 + r``: ``exp(r) - 1`` is ``r + tail``, and n is the sum of two integers."""

    r: Value
    tail: Value
    first: Value
    second: Value


def clamped(e: Emitter, x: Value, least: float, most: float) -> Value:
    """``x`` within bounds; a NaN becomes the lower one, so that no conversion is undefined."""
    low, high = e.real(x.type, least), e.real(x.type, most)
    x = e.select(e.fcmp("ogt", x, low), x, low)
    return e.select(e.fcmp("olt", x, high), x, high)


def nearest(e: Emitter, x: Value) -> tuple[Value, Value]:
    """The nearest whole number, as a number and as an integer, from the bits of ``x + 1.5 * 2**p``."""
    form = FORMATS[x.type]
    magic = e.real(x.type, 1.5 * 2.0**form.fraction)
    shifted = e.fadd(x, magic)
    bits = e.sub(e.bitcast(shifted, form.integer), e.bitcast(magic, form.integer))
    return e.fsub(shifted, magic), bits


def power_of_two(e: Emitter, k: Value, kind: str) -> Value:
    """``2**k`` for an integer k within the exponents of the type."""
    form = FORMATS[kind]
    biased = e.add(k, e.whole(k.type, form.bias))
    return e.bitcast(e.shl(biased, e.whole(k.type, form.fraction)), kind)


def halves(e: Emitter, whole: Value) -> tuple[Value, Value]:
    """An integer as the sum of two: 2 to each of them is within the exponents."""
    one = e.whole(whole.type, 1)
    if whole.type == "i32":
        first = e.ashr(whole, one)
    else:  # 64-bit integers have no arithmetic shift before AVX-512
        offset = 1 << 12
        lifted = e.lshr(e.add(whole, e.whole("i64", offset)), one)
        first = e.sub(lifted, e.whole("i64", offset // 2))
    return first, e.sub(whole, first)


def scaled(e: Emitter, y: Value, first: Value, second: Value) -> Value:
    """``y * 2**(first + second)``, rounded once."""
    return e.fmul(e.fmul(y, power_of_two(e, first, y.type)), power_of_two(e, second, y.type))


def reduce(e: Emitter, x: Value) -> Reduced:
    """Split a clamped argument of exp."""
    form = FORMATS[x.type]
    n, whole = nearest(e, e.fmul(x, e.real(x.type, 1 / math.log(2))))
    near = e.fma(n, e.real(x.type, -form.ln2[0]), x)
    low = e.real(x.type, -form.ln2[1])
    r = e.fma(n, low, near)
    tail = e.fmul(e.fmul(r, r), polynomial(e, r, EXPM1_TAIL[x.type]))
    if x.type == "double":
        tail = e.fadd(tail, e.fma(n, low, e.fsub(near, r)))
    return Reduced(r, tail, *halves(e, whole))


def or_nan(e: Emitter, x: Value, result: Value) -> Value:
    """``result``, or the argument where it is NaN."""
    return e.select(e.fcmp("uno", x, x), x, result)


def exp(e: Emitter, x: Value) -> Value:
    """``2**n (1 + (exp(r) - 1))``."""
    form = FORMATS[x.type]
    part = reduce(e, clamped(e, x, form.least, form.most))
    y = e.fadd(e.fadd(part.r, part.tail), e.real(x.type, 1.0))
    return or_nan(e, x, scaled(e, y, part.first, part.second))


def exp2(e: Emitter, x: Value) -> Value:
    """``2**n 2**r``: the argument splits exactly."""
    form = FORMATS[x.type]
    least = -(form.bias + form.fraction + 2.0)
    inside = clamped(e, x, least, form.bias + 1.0)
    n, whole = nearest(e, inside)
    r = e.fsub(inside, n)
    y = e.fma(polynomial(e, r, EXP2[x.type]), r, e.real(x.type, 1.0))
    return or_nan(e, x, scaled(e, y, *halves(e, whole)))


def expm1_pair(e: Emitter, part: Reduced) -> Pair:
    """``2**n r + (2**n - 1) + 2**n tail``: a number and its rounding error, where 2**n is finite."""
    kind = part.r.type
    power = e.fmul(power_of_two(e, part.first, kind), power_of_two(e, part.second, kind))
    total = two_sum(e, e.fsub(power, e.real(kind, 1.0)), e.fmul(power, part.r))
    return quick_two_sum(e, total.high, e.fma(power, part.tail, total.low))


def expm1(e: Emitter, x: Value) -> Value:
    """The sum of two parts, and exp where the 1 is lost."""
    form = FORMATS[x.type]
    part = reduce(e, clamped(e, x, form.minus_one * 2, form.most))
    small = expm1_pair(e, part).high
    y = e.fadd(e.fadd(part.r, part.tail), e.real(x.type, 1.0))
    large = scaled(e, y, part.first, part.second)
    result = e.select(e.fcmp("ogt", x, e.real(x.type, form.plain)), large, small)
    return or_nan(e, x, e.copysign(result, x))


def tanh(e: Emitter, x: Value) -> Value:
    """float: a polynomial up to 0.625, ``1 - 2 / (exp(2 a) + 1)`` above, as in Moshier's Cephes;
    double: ``t / (t + 2)`` of ``t = exp(2 a) - 1`` in two parts.
    """
    a = clamped(e, e.fabs(x), 0.0, FORMATS[x.type].flat)
    result = _tanh_double(e, a) if x.type == "double" else _tanh_float(e, a)
    return or_nan(e, x, e.copysign(result, x))


def _tanh_double(e: Emitter, a: Value) -> Value:
    t = expm1_pair(e, reduce(e, e.fadd(a, a)))
    below = two_sum(e, t.high, e.real("double", 2.0))
    quotient = e.fdiv(t.high, below.high)
    rest = e.fadd(e.fma(e.fneg(quotient), below.high, t.high), t.low)
    rest = e.fma(e.fneg(quotient), e.fadd(below.low, t.low), rest)
    return e.fadd(quotient, e.fdiv(rest, below.high))


def _tanh_float(e: Emitter, a: Value) -> Value:
    one = e.real("float", 1.0)
    part = reduce(e, e.fadd(a, a))
    power = power_of_two(e, e.add(part.first, part.second), "float")
    above = e.fma(power, e.fadd(part.r, part.tail), e.fadd(power, one))  # exp(2 a) + 1
    large = e.fsub(one, e.fdiv(e.real("float", 2.0), above))
    z = e.fmul(a, a)
    small = e.fma(e.fmul(a, z), polynomial(e, z, TANH), a)
    return e.select(e.fcmp("ogt", a, e.real("float", 0.625)), large, small)


WIDE: list[Callable[..., Value]] = []
"""The functions that take floats by way of double."""


def through_double(function: Callable[..., Value]) -> Callable[..., Value]:
    """A function of floats by way of double: rounded once at the end."""

    def narrow(e: Emitter, *operands: Value) -> Value:
        wide = (e.fpext(x, "double") if x.type == "float" else x for x in operands)
        result = function(e, *wide)
        return e.fptrunc(result, "float") if operands[0].type == "float" else result

    narrow.__doc__ = function.__doc__
    WIDE.append(narrow)
    return narrow


def _sinh(e: Emitter, x: Value) -> Value:
    """``(t + t / (t + 1)) / 2`` of ``t = exp(a) - 1`` in two parts; far out ``exp(a) / 2``."""
    kind, form = x.type, FORMATS[x.type]
    a = e.fabs(x)
    t = expm1_pair(e, reduce(e, clamped(e, a, 0.0, form.plain)))
    quotient = e.fdiv(t.high, e.fadd(t.high, e.real(kind, 1.0)))
    total = quick_two_sum(e, t.high, quotient)
    small = e.fmul(e.fadd(total.high, e.fadd(total.low, t.low)), e.real(kind, 0.5))
    result = e.select(e.fcmp("olt", a, e.real(kind, form.plain)), small, _half_exp(e, a))
    return or_nan(e, x, e.copysign(result, x))


def _cosh(e: Emitter, x: Value) -> Value:
    """``(y + 1 / y) / 2`` of ``y = exp(a)``."""
    kind = x.type
    a = e.fabs(x)
    half = e.real(kind, 0.5)
    y = exp(e, a)
    small = e.fma(half, y, e.fdiv(half, y))
    large = _half_exp(e, a)
    result = e.select(e.fcmp("olt", a, e.real(kind, FORMATS[kind].plain)), small, large)
    return or_nan(e, x, result)


def _half_exp(e: Emitter, a: Value) -> Value:
    """``exp(a) / 2``, infinite only where the quotient is."""
    form = FORMATS[a.type]
    part = reduce(e, clamped(e, a, 0.0, form.most + 1.0))
    y = e.fadd(e.fadd(part.r, part.tail), e.real(a.type, 1.0))
    return scaled(e, y, part.first, e.sub(part.second, e.whole(form.integer, 1)))


sinh = through_double(_sinh)
cosh = through_double(_cosh)


@through_double
def erf(e: Emitter, x: Value) -> Value:
    """A polynomial up to 1 and ``1 - exp(log(erfc(a)))`` above; of float's precision."""
    a = clamped(e, e.fabs(x), 0.0, 4.0)  # from 3.92 on, erf rounds to 1 in float
    small = e.fmul(a, polynomial(e, e.fmul(a, a), ERF))
    one = e.real("double", 1.0)
    large = e.fsub(one, exp(e, polynomial(e, a, ERFC_LOG)))
    result = e.select(e.fcmp("olt", a, one), small, large)
    return or_nan(e, x, e.copysign(result, x))
