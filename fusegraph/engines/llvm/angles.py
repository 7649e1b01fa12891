"""Angles: sin, cos, tan and their inverses, as IR.

In: an Emitter and one or two Values of type ``float`` or ``double``. Out: the Value of the function.
Every function is straight-line code over scalars, which LLVM's loop vectoriser widens as it likes.
Coefficients are this project's own: least squares on Chebyshev points, reweighted until the
largest relative error of the function is near its minimum (C. Lawson, 1961), in 200-bit arithmetic;
each is rounded before the next ones are fitted. The error of each fit stands beside it.
"""

from __future__ import annotations

from fractions import Fraction

from fusegraph.engines.llvm.argument_reduction import (
    Turn,
    pi_fraction,
    reduce_any,
    reduce_float,
    split,
)
from fusegraph.engines.llvm.formats import FORMATS
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import Pair, choose, polynomial, quick_two_sum

# fmt: off
SIN = {  # (sin(r) / r - 1) / r**2 in r**2, |r| <= 0.7862: 2**-27.9, 2**-57.9
    "float": (-0.16666653752326965, 0.008332119323313236, -0.00019510678248479962),
    "double": (
        -0.1666666666666663, 0.008333333333321884, -0.00019841269829416855, 2.7557313564812e-06,
        -2.505073924935736e-08, 1.5895750039552715e-10,
    ),
}
COS = {  # (cos(r) - 1 + r**2 / 2) / r**4 in r**2, |r| <= 0.7862: 2**-33.0, 2**-63.9
    "float": (0.04166664555668831, -0.0013887311797589064, 2.443275116092991e-05),
    "double": (
        0.041666666666666595, -0.001388888888887333, 2.4801587288986555e-05,
        -2.7557314210528237e-07, 2.0875704248994274e-09, -1.135867701429872e-11,
    ),
}
TAN = {  # (tan(r) / r - 1) / r**2 in r**2, |r| <= 0.7862: 2**-29.5, 2**-59.9
    "float": (
        0.33333349227905273, 0.13332673907279968, 0.05405920371413231, 0.0212841983884573,
        0.010833761654794216, 8.903224079404026e-05, 0.0043777599930763245,
    ),
    "double": (
        0.3333333333333338, 0.13333333333325406, 0.05396825397284816, 0.02186948840118956,
        0.008863237887808363, 0.003592101276209845, 0.0014560425518702126, 0.0005888802375524625,
        0.0002436934661752466, 8.370974942524877e-05, 6.69422465897127e-05,
        -2.5274877904960427e-05, 4.83327138328485e-05, -2.4122247095983164e-05,
        9.765011632703012e-06,
    ),
}
ASIN = {  # (asin(s) / s - 1) / s**2 in s**2, |s| <= 0.5: 2**-31.7, 2**-59.9
    "float": (
        0.16666659712791443, 0.07500516623258591, 0.04451501742005348, 0.031821444630622864,
        0.014393280260264874, 0.03757316619157791,
    ),
    "double": (
        0.1666666666666676, 0.0749999999997087, 0.04464285717455159, 0.03038194271047284,
        0.022372214916325614, 0.017351613228149425, 0.013980806673695152, 0.011399020832288309,
        0.010779668427459553, 0.003708533899864333, 0.021702455151587252, -0.02099222549373683,
        0.03262447648333786,
    ),
}
ATAN = {  # (atan(t) / t - 1) / t**2 in t**2, |t| <= 1: 2**-28.4, 2**-60.2
    "float": (  # last places moved until atan(1) is pi/4, rounded: so is that of (inf, inf)
        -0.33333295583724976, 0.1999853104352951, -0.14264105260372162, 0.10951489955186844,
        -0.08401507139205933, 0.05792570859193802, -0.031147150322794914, 0.010898618958890438,
        -0.0017901379615068436,
    ),
    "double": (
        -0.33333333333333287, 0.1999999999999062, -0.14285714285045217, 0.11111111086679103,
        -0.09090908551160636, 0.07692299756394894, -0.06666584087270278, 0.058817183615771436,
        -0.05259443959217231, 0.047449624010415525, -0.042864923665369384, 0.03821230285511827,
        -0.032789340169096536, 0.026157068423858922, -0.018620058152622614, 0.011322579622563217,
        -0.00561553562024099, 0.002153062582998587, -0.0005933706009076259,
        0.00010396729713759541, -8.663072557770918e-06,
    ),
}
# fmt: on

TINY = {"float": 2.0**-13, "double": 2.0**-30}  # below, sin(x) and tan(x) round to x
MITCHELL = 0.1011  # what the middle of log2(1 + f) - f, twice, is worth in a quotient of bits


# --- sine, cosine, tangent ------------------------------------------------------------------------


def _sine_of(e: Emitter, turn: Turn) -> Value:
    """``sin`` of a reduced angle plus its quarter turns.

    ``sin(high + low)`` and ``cos(high + low)`` to first order in low; an odd quarter turn takes the
    cosine, and from two on the sign flips.
    """
    high, low = turn.angle
    kind, integer = high.type, turn.quarters.type
    z = e.fmul(high, high)
    sine = e.fadd(high, e.fma(e.fmul(high, z), polynomial(e, z, SIN[kind]), low))
    head = e.fma(z, e.real(kind, -0.5), e.real(kind, 1.0))
    tail = e.fma(e.fmul(z, z), polynomial(e, z, COS[kind]), e.fneg(e.fmul(high, low)))
    size = e.select(_is_odd(e, turn.quarters), e.fadd(head, tail), sine)
    return e.bitcast(e.xor(e.bitcast(size, integer), _sign_of(e, turn.quarters, kind)), kind)


def _sign_of(e: Emitter, quarters: Value, kind: str) -> Value:
    """The sign bit where the second half of a turn has begun."""
    sign = FORMATS[kind].sign
    moved = e.shl(quarters, e.whole(quarters.type, sign - 1))
    return e.and_(moved, e.whole(quarters.type, 1 << sign))


def _is_odd(e: Emitter, count: Value) -> Value:
    return e.icmp("ne", e.and_(count, e.whole(count.type, 1)), e.whole(count.type, 0))


def _tan_of_double(e: Emitter, x: Value) -> Value:
    turn = reduce_any(e, x)
    high, low = turn.angle
    z = e.fmul(high, high)
    cubic = e.fmul(e.fmul(high, z), polynomial(e, z, TAN[x.type]))
    rough = e.fadd(high, cubic)
    tangent = quick_two_sum(e, high, e.fadd(cubic, e.fma(e.fmul(rough, rough), low, low)))
    # -1 / (high + low), corrected by what the quotient leaves
    quotient = e.fdiv(e.real(x.type, -1.0), tangent.high)
    rest = e.fma(quotient, tangent.high, e.real(x.type, 1.0))
    cotangent = e.fma(quotient, e.fma(quotient, tangent.low, rest), quotient)
    return _or_itself(e, x, e.select(_is_odd(e, turn.quarters), cotangent, tangent.high))


def _or_itself(e: Emitter, x: Value, result: Value) -> Value:
    """``x`` where it is so small that f(x) rounds to it: keeps -0.0 and subnormals."""
    tiny = e.fcmp("olt", e.fabs(x), e.real(x.type, TINY[x.type]))
    return e.select(tiny, x, result)


def _sine_of_float(e: Emitter, x: Value, more: int) -> Value:
    """The same for a float, whose reduced angle is a double, ``more`` quarter turns on."""
    high, quarters = reduce_float(e, x)
    if more:
        quarters = e.add(quarters, e.whole("i64", more))
    z = e.fmul(high, high)
    sine = e.fma(e.fmul(high, z), polynomial(e, z, SIN["float"]), high)
    tail = e.fma(polynomial(e, z, COS["float"]), z, e.real("double", -0.5))
    size = e.select(_is_odd(e, quarters), e.fma(tail, z, e.real("double", 1.0)), sine)
    sign = _sign_of(e, quarters, "double")
    return e.fptrunc(e.bitcast(e.xor(e.bitcast(size, "i64"), sign), "double"), "float")


def sin(e: Emitter, x: Value) -> Value:
    """Sine: reduced to [-pi/4, pi/4], polynomials of sine and cosine, one chosen.

    The reduction is that of Payne and Hanek 1983.
    """
    sine = _sine_of_float(e, x, 0) if x.type == "float" else _sine_of(e, reduce_any(e, x))
    return _or_itself(e, x, sine)


def cos(e: Emitter, x: Value) -> Value:
    """Cosine: the sine a quarter turn on, reduced likewise (Payne and Hanek 1983)."""
    if x.type == "float":
        return _sine_of_float(e, x, 1)
    angle, quarters = reduce_any(e, x)
    return _sine_of(e, Turn(angle, e.add(quarters, e.whole(quarters.type, 1))))


def tan(e: Emitter, x: Value) -> Value:
    """Tangent: reduced to [-pi/4, pi/4]; ``-1 / tan`` in the odd octants, with its remainder.

    The reduction is that of Payne and Hanek 1983.
    """
    return _tan_of_float(e, x) if x.type == "float" else _tan_of_double(e, x)


def _tan_of_float(e: Emitter, x: Value) -> Value:
    high, quarters = reduce_float(e, x)
    z = e.fmul(high, high)
    tangent = e.fma(e.fmul(high, z), polynomial(e, z, TAN["float"]), high)
    odd, one = _is_odd(e, quarters), e.real("double", 1.0)
    above = e.select(odd, e.real("double", -1.0), tangent)
    quotient = e.fdiv(above, e.select(odd, tangent, one))
    return _or_itself(e, x, e.fptrunc(quotient, "float"))


# --- inverses -------------------------------------------------------------------------------------


def offset_odd(e: Emitter, base: Pair, t: Value, polynomial_of_square: Value, z: Value) -> Value:
    """``base + t + t * z * p``, rounded once where ``base`` is zero and nearly so elsewhere."""
    total, error = quick_two_sum(e, base.high, t)
    return e.fadd(total, e.fadd(error, e.fma(e.fmul(t, z), polynomial_of_square, base.low)))


def _constant(e: Emitter, type_name: str, number: Fraction) -> Pair:
    high, low = split(type_name, number, 2)
    return Pair(e.real(type_name, high), e.real(type_name, low))


def _half_angle(e: Emitter, x: Value) -> tuple[Value, Value, Value]:
    """Whether ``|x| > 1/2``; s with asin(s) at hand, and its square.

    s is ``|x|`` or ``sqrt((1 - |x|) / 2)``, the sine of half the angle between x and 1. The
    difference is exact.
    """
    size = e.fabs(x)
    half = e.real(x.type, 0.5)
    large = e.fcmp("ogt", size, half)
    z = e.select(large, e.fma(size, e.real(x.type, -0.5), half), e.fmul(size, size))
    return large, e.select(large, e.sqrt(z), size), z


def asin(e: Emitter, x: Value) -> Value:
    """Arcsine: ``asin(s)`` or ``pi/2 - 2 asin(s)`` (Cody and Waite, 1980, chapter 10)."""
    large, s, z = _half_angle(e, x)
    zero = e.real(x.type, 0.0)
    base = choose(e, large, _constant(e, x.type, pi_fraction() / 2), Pair(zero, zero))
    t = e.select(large, e.fmul(s, e.real(x.type, -2.0)), s)
    return e.copysign(offset_odd(e, base, t, polynomial(e, z, ASIN[x.type]), z), x)


def acos(e: Emitter, x: Value) -> Value:
    """Arccosine: ``2 asin(s)``, ``pi - 2 asin(s)`` or ``pi/2 - asin(x)`` (Cody and Waite 1980)."""
    large, s, z = _half_angle(e, x)
    zero = e.real(x.type, 0.0)
    negative = e.fcmp("olt", x, zero)
    ends = choose(e, negative, _constant(e, x.type, pi_fraction()), Pair(zero, zero))
    base = choose(e, large, ends, _constant(e, x.type, pi_fraction() / 2))
    t = e.select(large, e.copysign(e.fadd(s, s), x), e.fneg(x))
    return offset_odd(e, base, t, polynomial(e, z, ASIN[x.type]), z)


def atan(e: Emitter, x: Value) -> Value:
    """Arctangent: ``atan(t)`` for t in [0, 1], or ``pi/2 - atan(1/t)`` (Cody and Waite 1980)."""
    size = e.fabs(x)
    one, zero = e.real(x.type, 1.0), e.real(x.type, 0.0)
    large = e.fcmp("ogt", size, one)
    t = e.fdiv(e.select(large, e.real(x.type, -1.0), size), e.select(large, size, one))
    base = choose(e, large, _constant(e, x.type, pi_fraction() / 2), Pair(zero, zero))
    z = e.fmul(t, t)
    return e.copysign(offset_odd(e, base, t, polynomial(e, z, ATAN[x.type]), z), x)


def atan2(e: Emitter, y: Value, x: Value) -> Value:
    """Angle of the point (x, y): ``atan`` of the smaller over the larger, and the octant's base.

    The method is that of Cody and Waite 1980, chapter 11, with one range for all quotients.
    The quotient is corrected by its remainder: without, the error in float passed 1.5 ulp.
    Signed zeros and infinities as in C (ISO/IEC 9899, F.10.1.4): equal sizes are a quotient of 1,
    or of 0 where both are zero.
    """
    zero, one = e.real(x.type, 0.0), e.real(x.type, 1.0)
    tall, wide = e.fabs(y), e.fabs(x)
    steep = e.fcmp("ogt", tall, wide)
    small, large = e.select(steep, wide, tall), e.select(steep, tall, wide)
    # Its remainder would underflow where both are near the least normal number: 1.499 ulp in float.
    form = FORMATS[x.type]
    digits = form.fraction + 1
    least = e.fcmp("olt", large, e.real(x.type, 2.0 ** (3 * digits - form.bias)))
    lift = e.select(least, e.real(x.type, 2.0 ** (2 * digits)), one)
    small, large = e.fmul(small, lift), e.fmul(large, lift)
    quotient = e.fdiv(small, large)
    # What the division rounded off, to 7 %; NaN where a side is zero or infinite.
    low = _divided(e, e.fma(e.fneg(quotient), large, small), large)
    low = e.select(e.fcmp("olt", e.fabs(low), one), low, zero)
    alike = e.select(e.fcmp("oeq", tall, zero), zero, one)
    quotient = e.select(e.fcmp("oeq", tall, wide), alike, quotient)
    left = e.icmp("slt", e.bitcast(x, form.integer), e.whole(form.integer, 0))
    back = e.xor(left, steep)
    t = e.select(back, e.fneg(quotient), quotient)
    flat = choose(e, left, _constant(e, x.type, pi_fraction()), Pair(zero, zero))
    base = choose(e, steep, _constant(e, x.type, pi_fraction() / 2), flat)
    z = e.fmul(t, t)
    # low times the slope 1 / (1 + z), nearly 1 - z / 2 up to 1
    low = e.fmul(e.select(back, e.fneg(low), low), e.fma(z, e.real(x.type, -0.5), one))
    base = Pair(base.high, e.fadd(base.low, low))
    angle = offset_odd(e, base, t, polynomial(e, z, ATAN[x.type]), z)
    return e.copysign(angle, y)


def _divided(e: Emitter, small: Value, x: Value) -> Value:
    """``small / x`` to some 7 %, for what a rounding left; a division would take as long as ten others.

    Bits of floating-point numbers are nearly their logarithms (J. Mitchell, 1962), so a difference of
    bits is nearly a quotient. It is taken of 2**16, so that it ends at no size of x.
    """
    kind, form = x.type, FORMATS[x.type]
    power = 16
    bits = round((2 * form.bias + power - MITCHELL) * 2**form.fraction)
    inverse = e.bitcast(e.sub(e.whole(form.integer, bits), e.bitcast(x, form.integer)), kind)
    return e.fmul(e.fmul(small, e.real(kind, 2.0**-power)), inverse)
