"""The inverse hyperbolic functions, as IR.

In: an Emitter and a Value of type ``float`` or ``double``. Out: the Value of asinh, acosh or atanh,
straight-line code over scalars: a logarithm of 1 and a pair. Coefficients are fitted as those of
``angles``; the error of each fit stands beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fusegraph.engines.llvm.angles import MITCHELL, offset_odd
from fusegraph.engines.llvm.exponentials import LN2
from fusegraph.engines.llvm.formats import FORMATS, power_of_two
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.logarithms import atanh_argument
from fusegraph.engines.llvm.pairs import (
    Pair,
    choose,
    polynomial,
    quick_two_sum,
    two_product,
    two_sum,
)

# fmt: off
LOG = {  # as ``logarithms.ATANH_TAIL``, a term shorter, |s| <= 0.172: 2**-30.2, 2**-59.4
    "float": (0.3333338797092438, 0.19988760352134705, 0.14936749637126923),
    "double": (
        0.3333333333333368, 0.1999999999970005, 0.14285714373038022, 0.11111099076835944,
        0.09091794045742069, 0.0765669785814177, 0.07401470936090089,
    ),
}
ATANH = {  # the same, |s| <= 0.3335: 2**-33.0, 2**-59.4
    "float": (
        0.3333333730697632, 0.199994757771492, 0.14307551085948944, 0.10722579061985016,
        0.12120310217142105,
    ),
    "double": (
        0.33333333333333154, 0.20000000000078016, 0.14285714273990413, 0.11111111981648839,
        0.09090872052522923, 0.07693278496641205, 0.06650500534900133, 0.06052974719610783,
        0.04170185424229545, 0.08509323327443974,
    ),
}
# fmt: on

HUGE = {"float": 2.0**12, "double": 2.0**28}  # from here on sqrt(a**2 + 1) is a, for log


def _two_to(e: Emitter, k: Value, kind: str) -> Value:
    """``2**k`` for an integer k within the exponents of the type."""
    return power_of_two(e, e.add(k, e.whole(k.type, FORMATS[kind].bias)), kind)


def _small_integer(e: Emitter, k: Value, kind: str) -> Value:
    """``k`` as a floating-point number, for 0 <= k < 2**23: bits of 2**52 + k, less 2**52.

    There is no instruction for 64-bit integers before AVX-512.
    """
    big = e.real(kind, 2.0 ** FORMATS[kind].fraction)
    return e.fsub(e.bitcast(e.or_(k, e.bitcast(big, k.type)), kind), big)


def _ln2(e: Emitter, kind: str, factor: float = 1.0) -> Pair:
    """``factor * ln 2``, a power of two; its first part is exact times an exponent."""
    high, low = LN2[kind]
    return Pair(e.real(kind, high * factor), e.real(kind, low * factor))


class _Scaled(NamedTuple):
    """A number ``2**exponent * (1 + high + low)``, ``high`` in [-0.29, 0.42)."""

    exponent: Value
    high: Value
    low: Value


def _scale(e: Emitter, y: Pair, huge: Value) -> _Scaled:
    """``1 + y`` for ``y >= 0``, or ``2 y`` where ``huge``, by its exponent and the rest.

    A number below the square root of two has exponent 0, and keeps y as it is.
    """
    kind, integer = y.high.type, FORMATS[y.high.type].integer
    zero, one = e.real(kind, 0.0), e.real(kind, 1.0)
    whole, part = two_sum(e, one, y.high)
    bits = e.bitcast(e.select(huge, y.high, whole), integer)
    shift = e.whole(integer, FORMATS[kind].fraction)
    k = e.lshr(e.sub(bits, e.bitcast(e.real(kind, 0.5**0.5), integer)), shift)
    near = e.icmp("eq", k, e.whole(integer, 0))
    one_plus_high = e.bitcast(e.sub(bits, e.shl(k, shift)), kind)
    scale = _two_to(e, e.sub(e.whole(integer, 0), k), kind)
    low = e.select(huge, zero, e.fmul(e.fadd(part, y.low), scale))
    return _Scaled(
        _small_integer(e, e.add(k, e.zext(huge, integer)), kind),
        e.select(near, y.high, e.fsub(one_plus_high, one)),
        e.select(near, y.low, low),
    )


def _log(e: Emitter, x: _Scaled) -> Value:
    """Natural logarithm, in the form of ``logarithms``, of a number with a low part."""
    kind, f = x.high.type, x.high
    s = atanh_argument(e, f)
    z = e.fmul(s, s)
    # d log(1 + f) = df / (1 + f), and 1 / (1 + f) is nearly 1 - 2 s + 2 s**2
    slope = e.fma(e.fadd(s, s), e.fsub(s, e.real(kind, 1.0)), e.real(kind, 1.0))
    ln2 = _ln2(e, kind)
    total, error = quick_two_sum(e, e.fmul(x.exponent, ln2.high), f)
    rest = e.fsub(f, e.fmul(e.fadd(z, z), polynomial(e, z, LOG[kind])))
    small = e.fma(e.fneg(s), rest, e.fma(x.exponent, ln2.low, e.fmul(x.low, slope)))
    return e.fadd(total, e.fadd(error, small))


def asinh(e: Emitter, x: Value) -> Value:
    """Inverse hyperbolic sine: ``log1p(a + a**2 / (1 + sqrt(1 + a**2)))`` of ``a = |x|``.

    From 2**28 (2**12 for float) on, where 1 / (4 a**2) no longer counts, ``log(2 a)``. The logarithm
    has the form of FDLIBM (1993).
    """
    a = e.fabs(x)
    one = e.real(x.type, 1.0)
    huge = e.fcmp("ogt", a, e.real(x.type, HUGE[x.type]))
    square = e.fmul(a, a)
    growth = e.fdiv(square, e.fadd(one, e.sqrt(e.fadd(one, square))))
    y = quick_two_sum(e, a, growth)
    y = choose(e, huge, Pair(a, e.real(x.type, 0.0)), y)
    result = e.copysign(_log(e, _scale(e, y, huge)), x)
    finite = e.fcmp("olt", a, e.real(x.type, math.inf))
    return e.select(finite, result, x)


def acosh(e: Emitter, x: Value) -> Value:
    """Inverse hyperbolic cosine: ``log1p(t + sqrt(2 t + t**2))`` of ``t = x - 1``.

    From 2**28 (2**12 for float) on, ``log(2 x)``. The logarithm has the form of FDLIBM (1993).
    """
    one = e.real(x.type, 1.0)
    t = e.fsub(x, one)
    zero = e.real(x.type, 0.0)
    huge = e.fcmp("ogt", x, e.real(x.type, HUGE[x.type]))
    square = two_product(e, t, t)
    radicand = two_sum(e, e.fadd(t, t), square.high)
    root = _root(e, Pair(radicand.high, e.fadd(radicand.low, square.low)))
    y = two_sum(e, root.high, t)
    y = Pair(e.select(huge, x, y.high), e.select(huge, zero, e.fadd(y.low, root.low)))
    result = _log(e, _scale(e, y, huge))
    result = e.select(e.fcmp("olt", x, e.real(x.type, math.inf)), result, x)
    return e.select(e.fcmp("olt", x, one), e.real(x.type, math.nan), result)


def _root(e: Emitter, square: Pair) -> Pair:
    """Square root of a pair; without its low part acosh passed 2 ulp.

    The remainder is divided by ``2 * high`` to some 6 %, which is enough: bits of floating-point
    numbers are nearly their logarithms, so a difference of bits is nearly a quotient.
    """
    kind, integer = square.high.type, FORMATS[square.high.type].integer
    high = e.sqrt(square.high)
    rest = e.fadd(e.fma(e.fneg(high), high, square.high), square.low)
    form = FORMATS[kind]
    one_half = int((2 * form.bias - 1 - MITCHELL) * 2**form.fraction)
    half_inverse = e.bitcast(e.sub(e.whole(integer, one_half), e.bitcast(high, integer)), kind)
    return Pair(high, e.fmul(rest, half_inverse))


def atanh(e: Emitter, x: Value) -> Value:
    """Inverse hyperbolic tangent: ``k ln(2) / 2 + atanh(s)``.

    With ``2**k`` near ``(1 + a) / (1 - a)``, s is ``((1 + a) - 2**k (1 - a)) / ((1 + a) + 2**k
    (1 - a))``, by the addition theorem. k comes from the difference of the bit patterns, which is
    nearly that of the logarithms (J. Mitchell, 1962): s is a itself up to 1/3, and never above, nor
    below zero, so that nothing cancels.
    """
    kind, integer = x.type, FORMATS[x.type].integer
    a = e.fabs(x)
    one = e.real(kind, 1.0)
    above, below = e.fadd(one, a), e.fsub(one, a)
    shift = e.whole(integer, FORMATS[kind].fraction)
    difference = e.sub(e.bitcast(above, integer), e.bitcast(below, integer))
    k = e.lshr(difference, shift)
    s = _excess_ratio(e, a, above, below, _two_to(e, k, kind))
    z = e.fmul(s, s)
    exponent = _small_integer(e, k, kind)
    ln2 = _ln2(e, kind, 0.5)
    base = Pair(e.fmul(exponent, ln2.high), e.fmul(exponent, ln2.low))
    result = offset_odd(e, base, s, polynomial(e, z, ATANH[kind]), z)
    infinity, nan = e.real(kind, math.inf), e.real(kind, math.nan)
    result = e.select(e.fcmp("olt", a, one), result, nan)
    return e.copysign(e.select(e.fcmp("oeq", a, one), infinity, result), x)


def _excess_ratio(e: Emitter, a: Value, above: Value, below: Value, scale: Value) -> Value:
    """``(above - scale * below) / (above + scale * below)``, above and below being 1 + a and 1 - a.

    From 1/2 on ``1 - a`` is exact. Under 1/2 both sums may be rounded, so they are taken apart:
    there scale is small enough that ``1 + scale`` is exact.
    """
    one = e.real(a.type, 1.0)
    plus, minus = e.fadd(one, scale), e.fsub(one, scale)
    scaled = e.fmul(scale, below)
    large = e.fcmp("ogt", a, e.real(a.type, 0.5))
    numerator = e.select(large, e.fsub(above, scaled), e.fma(a, plus, minus))
    denominator = e.select(large, e.fadd(above, scaled), e.fma(a, minus, plus))
    return e.fdiv(numerator, denominator)
