"""Powers, roots and the logarithms of sums, as IR.

In: an Emitter and Values of type ``float`` or ``double``. Out: the Value of the function, straight-line
code over scalars. What needs more digits than its type has goes by ``half_log``, ``atanh(s)`` of
``s = f / (2 + f)`` with its first two terms in pairs (as in P. Tang, "Table-driven implementation
of the logarithm function", 1990, without a table); floats go by way of double instead.
Coefficients are near-minimax, fitted on Chebyshev points in 300-bit arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps

import numpy as np

from fusegraph.engines.llvm.exponentials import (
    ENDS,
    EXPM1_TAIL,
    clamped,
    exp2_of_reduced,
    nearest,
    reduce,
    scaled,
)
from fusegraph.engines.llvm.formats import FORMATS, power_of_two
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.logarithms import atanh_argument, split, split_normal
from fusegraph.engines.llvm.pairs import (
    Pair,
    pair_product,
    polynomial,
    quick_two_sum,
    two_product,
    two_sum,
)

# fmt: off
THIRD = (0.3333333333333333, 1.850371707708594e-17)
ATANH_REST = (  # (atanh(s) / s - 1 - z / 3 - z**2 / 5) / z**3 in z = s**2, z <= 0.0295: 2**-52.8
    0.142857142857143, 0.11111111111069251, 0.09090909113399773, 0.07692303146160163,
    0.06667104082798177, 0.058608151998513214, 0.057842014434077375,
)
LOG2 = (  # 2 log2(e) atanh(s) / s in s**2, <= 0.0295: 2**-36.3; for powers of floats, in double
    2.8853900817901477, 0.961796673253033, 0.5770836011942234, 0.41167178564974743,
    0.3407468238834723,
)
INVERSE_ROOT = (  # ((1 - t)**(-1/3) - 1) / t, |t| <= 0.105: 2**-18.3
    0.3333270412649045, 0.22354858825455523, 0.17479472809495572,
)
# fmt: on
CBRT_START = 4 / 3  # y of bits c - b / 3 is within 3.4 % of the inverse root of x of bits b
CBRT_SHIFT = 0.068
LOG2_E = (1.4426950408889634, 2.0355273740931033e-17)
TWICE_LOG2_E = tuple(2 * part for part in LOG2_E)
LN2 = (0.6931471805599453, 2.3190468138462996e-17)


# --- logarithms and exponentials of more digits ---------------------------------------------------


def half_log(e: Emitter, f: Pair) -> Pair:
    """``log(1 + f) / 2`` for ``-0.3 <= f <= 0.42``, to some 65 bits; double."""
    t = quick_two_sum(e, e.real("double", 2.0), f.high)
    high = e.fdiv(f.high, t.high)
    rest = e.fadd(e.fma(e.fneg(high), t.high, f.high), f.low)
    rest = e.fma(e.fneg(high), e.fadd(t.low, f.low), rest)
    half = e.real("double", 0.5)
    s = Pair(high, e.fmul(rest, e.fma(high, e.real("double", -0.5), half)))  # (1 - s) / 2 is 1 / t
    z = pair_product(e, s, s)
    tail = e.fmul(z.high, polynomial(e, z.high, ATANH_REST))
    # z**2 / 5 is 2**-12 of the whole, and what a double rounds it by 2**-65
    series = two_product(e, z.high, e.fadd(tail, e.real("double", 0.2)))
    low = e.fadd(series.low, e.real("double", THIRD[1]))
    third = quick_two_sum(e, e.real("double", THIRD[0]), series.high)
    series = Pair(third.high, e.fadd(third.low, e.fma(z.low, e.real("double", 0.2), low)))
    product = pair_product(e, s, pair_product(e, z, series))
    total = quick_two_sum(e, s.high, product.high)
    return Pair(total.high, e.fadd(total.low, e.fadd(s.low, product.low)))


def _scaled_pair(e: Emitter, x: Pair, factor: tuple[float, ...]) -> Pair:
    high, low = (e.real("double", number) for number in factor)
    return pair_product(e, x, Pair(high, low))


def _log2_pair(e: Emitter, a: Value) -> Pair:
    """``log2(a)`` for a positive finite double."""
    part = split(e, a)
    nothing = e.real("double", -0.0)  # no other zero can be added for free
    fraction = _scaled_pair(e, half_log(e, Pair(part.f, nothing)), TWICE_LOG2_E)
    total = quick_two_sum(e, part.exponent, fraction.high)
    return Pair(total.high, e.fadd(total.low, fraction.low))


def _log2_for_floats(e: Emitter, a: Value) -> Value:
    """``log2(a)`` for a positive double that was a float, to 35 bits."""
    part = split_normal(e, a)
    s = atanh_argument(e, part.f)
    return e.fma(polynomial(e, e.fmul(s, s), LOG2), s, part.exponent)


# --- powers ---------------------------------------------------------------------------------------


def power(e: Emitter, x: Value, y: Value) -> Value:
    """``exp2(y log2(a))`` with the sign of an odd power.

    The logarithm has the form of FDLIBM (1993). For doubles it and the product are pairs; for floats
    they are doubles, and so is what is rounded to float at last. Special values are C's (ISO C,
    F.10.4.4).
    """
    size = _float_power if x.type == "float" else _double_power
    # (-1) ** inf is 1, and what is finite has no product 0 * inf
    most = float(np.finfo(np.float32 if x.type == "float" else np.float64).max)
    return _with_signs(e, x, y, size(e, e.fabs(x), clamped(e, y, -most, most)))


def _float_power(e: Emitter, a: Value, y: Value) -> Value:
    a, b = e.fpext(a, "double"), e.fpext(y, "double")
    exponent = e.fmul(b, _of_ends(e, a, _log2_for_floats(e, a)))
    inside = clamped(e, exponent, -200.0, 200.0)
    n, biased = nearest(e, inside)
    result = exp2_of_reduced(e, e.fsub(inside, n), "float")
    return e.fptrunc(e.fmul(result, power_of_two(e, biased, "double")), "float")


def _double_power(e: Emitter, a: Value, y: Value) -> Value:
    logarithm = _log2_pair(e, a)
    high = _of_ends(e, a, logarithm.high)
    product = two_product(e, y, high)
    low = e.fma(y, logarithm.low, product.low)
    inside = clamped(e, product.high, -1080.0, 1024.0)
    low = e.select(e.fcmp("oeq", inside, product.high), low, e.real("double", 0.0))
    n, biased = nearest(e, inside, more=-1)
    r = e.fadd(e.fsub(inside, n), low)
    return scaled(e, exp2_of_reduced(e, r), n, biased)


def _of_ends(e: Emitter, a: Value, logarithm: Value) -> Value:
    """The logarithm of zero; of infinity and NaN, which are their own."""
    zero, infinity = e.real(a.type, 0.0), e.real(a.type, math.inf)
    logarithm = e.select(e.fcmp("oeq", a, zero), e.real(a.type, -math.inf), logarithm)
    return e.select(e.fcmp("olt", a, infinity), logarithm, a)


def _with_signs(e: Emitter, x: Value, y: Value, size: Value) -> Value:
    """The power from that of ``|x|``: signs, NaNs, and what is 1."""
    kind, integer = x.type, FORMATS[x.type].integer
    zero, one, infinity = (e.real(kind, c) for c in (0.0, 1.0, math.inf))
    whole = e.fcmp("oeq", e.floor(y), y)
    half = e.fmul(y, e.real(kind, 0.5))
    odd = e.and_(whole, e.fcmp("une", e.floor(half), half))
    negative = e.icmp("slt", e.bitcast(x, integer), e.whole(integer, 0))
    signed = e.select(e.and_(negative, odd), e.fneg(size), size)
    inside = e.and_(e.fcmp("olt", x, zero), e.fcmp("one", x, e.fneg(infinity)))
    no_root = e.and_(inside, e.xor(whole, e.whole("i1", 1)))
    result = e.select(no_root, e.real(kind, math.nan), signed)
    certain = e.or_(e.fcmp("oeq", x, one), e.fcmp("oeq", y, zero))
    return e.select(certain, one, result)


# --- roots ----------------------------------------------------------------------------------------


def cbrt(e: Emitter, x: Value) -> Value:
    """``x y**2`` of the inverse cube root y, corrected by its remainder.

    y starts from the bits of x by W. Kahan's division by three ("Computing a real cube root", 1991)
    and takes a step of Householder's of order four, in double one of Newton's more.
    """
    kind, form = x.type, FORMATS[x.type]
    size = e.fabs(x)
    tiny = e.fcmp("olt", size, e.real(kind, form.least_normal * 2.0 ** (form.fraction + 10)))
    lift = 72 if kind == "float" else 162
    one, third = e.real(kind, 1.0), e.real(kind, 1 / 3)
    a = e.fmul(size, e.select(tiny, e.real(kind, 2.0**lift), one))
    y = _inverse_root_start(e, a)
    error = _excess(e, a, y)
    y = e.fma(e.fmul(y, error), polynomial(e, error, INVERSE_ROOT), y)
    if kind == "double":
        y = e.fma(e.fmul(y, _excess(e, a, y)), third, y)
    square = e.fmul(y, y)
    root = e.fmul(a, square)
    cube = two_product(e, root, root)
    rest = e.fma(cube.low, root, e.fma(cube.high, root, e.fneg(a)))
    root = e.fma(e.fneg(rest), e.fmul(square, third), root)
    root = e.fmul(root, e.select(tiny, e.real(kind, 2.0 ** (-lift // 3)), one))
    # zero, infinity and NaN are their own roots
    positive = e.fcmp("ogt", a, e.real(kind, 0.0))
    ordinary = e.and_(positive, e.fcmp("olt", a, e.real(kind, math.inf)))
    return e.copysign(e.select(ordinary, root, size), x)


def _excess(e: Emitter, a: Value, y: Value) -> Value:
    """``1 - a y**3``, without an overflow or underflow on the way."""
    return e.fma(e.fneg(e.fmul(e.fmul(a, y), y)), y, e.real(a.type, 1.0))


def _inverse_root_start(e: Emitter, a: Value) -> Value:
    """Within 3.4 % of ``a**(-1/3)``, from a third of its bits."""
    form = FORMATS[a.type]
    start = CBRT_START * form.bias - CBRT_SHIFT
    bits = e.bitcast(a, form.integer)
    if a.type == "float":  # a third of the bits as a number: its rounding does not matter
        number = e.fma(
            e.sitofp(bits, "float"),
            e.real("float", -1 / 3),
            e.real("float", start * 2.0**form.fraction),
        )
        return e.bitcast(e.fptosi(number, "i32"), "float")
    word = e.whole("i64", 32)
    third = e.lshr(e.mul(e.lshr(bits, word), e.whole("i64", (1 << 32) // 3 + 1)), word)
    high = e.sub(e.whole("i64", round(start * 2.0 ** (form.fraction - 32))), third)
    return e.bitcast(e.shl(high, word), "double")


def hypot(e: Emitter, x: Value, y: Value) -> Value:
    """``sqrt(x**2 + y**2)``. Infinity wins over NaN.

    Squares of floats are exact in double; doubles are scaled where a square would overflow, or
    underflow and count (J. Blue, "A portable Fortran program to find the Euclidean norm of a
    vector", 1978).
    """
    root = _float_hypot(e, x, y) if x.type == "float" else _double_hypot(e, x, y)
    infinity = e.real(x.type, math.inf)
    for operand in (x, y):
        root = e.select(e.fcmp("oeq", e.fabs(operand), infinity), infinity, root)
    return root


def _float_hypot(e: Emitter, x: Value, y: Value) -> Value:
    x, y = e.fpext(x, "double"), e.fpext(y, "double")
    return e.fptrunc(e.sqrt(e.fma(x, x, e.fmul(y, y))), "float")


def _double_hypot(e: Emitter, x: Value, y: Value) -> Value:
    a, b = e.fabs(x), e.fabs(y)
    top = e.select(e.fcmp("ogt", a, b), a, b)
    down, up = e.real("double", 2.0**-600), e.real("double", 2.0**600)
    one = e.real("double", 1.0)
    large = e.fcmp("ogt", top, e.real("double", 2.0**500))
    small = e.fcmp("olt", top, e.real("double", 2.0**-450))
    scale = e.select(large, down, e.select(small, up, one))
    back = e.select(large, up, e.select(small, down, one))
    a, b = e.fmul(a, scale), e.fmul(b, scale)
    return e.fmul(e.sqrt(e.fma(a, a, e.fmul(b, b))), back)


# --- logarithms of sums ---------------------------------------------------------------------------


def through_double(function: Callable[..., Value]) -> Callable[..., Value]:
    """A function of floats by way of double: rounded once at the end."""

    @wraps(function)
    def narrow(e: Emitter, *operands: Value) -> Value:
        wide = (e.fpext(x, "double") if x.type == "float" else x for x in operands)
        result = function(e, *wide)
        return e.fptrunc(result, "float") if operands[0].type == "float" else result

    return narrow


@through_double
def logaddexp(e: Emitter, x: Value, y: Value) -> Value:
    """``max + log1p(exp(-|x - y|))``, all of it in pairs: the sum may cancel.

    P. Blanchard, D. Higham and N. Higham, "Accurately computing the log-sum-exp and softmax
    functions", 2021.
    """
    top, away = _top_and_distance(e, x, y)
    k, fraction = _log1p_exp(e, away)
    whole = two_sum(e, e.fmul(k, e.real("double", LN2[0])), fraction.high)
    low = e.fma(k, e.real("double", LN2[1]), e.fadd(whole.low, fraction.low))
    return _sum_or_nan(e, x, y, top, Pair(whole.high, low))


@through_double
def logaddexp2(e: Emitter, x: Value, y: Value) -> Value:
    """``max + log2(1 + 2**-|x - y|)``, likewise (Blanchard, Higham and Higham 2021)."""
    top, away = _top_and_distance(e, x, y)
    k, nats = _log1p_exp(e, _scaled_pair(e, away, LN2))
    fraction = _scaled_pair(e, nats, LOG2_E)
    whole = quick_two_sum(e, k, fraction.high)
    return _sum_or_nan(e, x, y, top, Pair(whole.high, e.fadd(whole.low, fraction.low)))


def _top_and_distance(e: Emitter, x: Value, y: Value) -> tuple[Value, Pair]:
    """The larger operand, and how far the other one is below it; equal infinities are not."""
    zero = e.real("double", 0.0)
    larger = e.fcmp("ogt", x, y)
    top, bottom = e.select(larger, x, y), e.select(larger, y, x)
    away = two_sum(e, top, e.fneg(bottom))
    equal = e.fcmp("oeq", x, y)
    # beyond 800 nothing is left to add, and an infinite difference has no error
    high = e.select(equal, zero, clamped(e, away.high, 0.0, 2000.0))
    ordinary = e.fcmp("olt", high, e.real("double", 2000.0))
    low = e.select(e.and_(ordinary, e.fcmp("one", high, zero)), away.low, zero)
    return top, Pair(high, low)


def _log1p_exp(e: Emitter, away: Pair) -> tuple[Value, Pair]:
    """``1 + exp(-away)``: k, which is 0 or 1, and the logarithm of what 2**k leaves of it."""
    x = clamped(e, e.fneg(away.high), ENDS["double"].least, 0.0)
    part = reduce(e, x, more=-1)
    lowest = e.fsub(part.rest, away.low)
    # exp(r) = 1 + r + r**2 / 2 + ..., the first three terms without error
    square = two_product(e, part.r, e.fmul(part.r, e.real("double", 0.5)))
    more = polynomial(e, part.r, EXPM1_TAIL["double"][1:])
    cubic = e.fmul(e.fmul(e.fmul(part.r, part.r), part.r), more)
    first = quick_two_sum(e, e.real("double", 1.0), part.r)
    second = two_sum(e, first.high, square.high)
    low = e.fadd(e.fadd(first.low, second.low), e.fadd(square.low, cubic))
    low = e.fma(second.high, lowest, low)
    t = Pair(*(scaled(e, v, part.n, part.biased) for v in (second.high, low)))
    u = quick_two_sum(e, e.real("double", 1.0), t.high)
    u = quick_two_sum(e, u.high, e.fadd(u.low, t.low))
    one, half = e.real("double", 1.0), e.real("double", 0.5)
    above = e.fcmp("ogt", u.high, e.real("double", math.sqrt(2)))
    scale = e.select(above, half, one)
    k = e.select(above, one, e.real("double", 0.0))
    f = Pair(e.fsub(e.fmul(u.high, scale), one), e.fmul(u.low, scale))
    half_nats = half_log(e, f)
    return k, Pair(*(e.fadd(v, v) for v in half_nats))


def _or_nan(e: Emitter, x: Value, result: Value) -> Value:
    """``result``, or the argument where it is NaN."""
    return e.select(e.fcmp("uno", x, x), x, result)


def _sum_or_nan(e: Emitter, x: Value, y: Value, top: Value, more: Pair) -> Value:
    total = two_sum(e, top, more.high)
    finite = e.fcmp("olt", e.fabs(top), e.real("double", math.inf))
    low = e.select(finite, e.fadd(total.low, more.low), e.real("double", 0.0))
    return _or_nan(e, x, _or_nan(e, y, e.fadd(total.high, low)))
