"""Argument reduction for sin, cos and tan: what is left of an angle after multiples of pi/2.

In: an angle of any size. Out: the angle in [-pi/4, pi/4], and how many quarter turns were taken off:
for a double a ``Turn``, whose angle has about twice a double's precision, for a float a ``WideTurn``,
whose angle is a double.

Both ways multiply by the few bits of 2/pi that matter for the angle's exponent (M. Payne and R. Hanek,
"Radian reduction for trigonometric functions", 1983): right for every finite angle. The bits are
chosen by selects, not fetched from a table in memory: a load whose address depends on the angle
would need a gather, and a proof that the loop's stores do not touch the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from fusegraph.engines.llvm.formats import FORMATS
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import Pair, choose, quick_two_sum, two_product, two_sum

# Windows on the bits of 2/pi. How long one must be follows from the nearest that numbers of a type
# come to a multiple of pi/2, in quarter turns: 2**-30 for float and 2**-62 for double.
FLOAT_STEP = 22  # bits from one window to the next, each of 106 bits
FLOAT_BASE = 45  # x / 2**k is below 2**45, and from 2**23 on an integer
CHUNK = 53  # bits in a chunk of double's windows, and from one window to the next
CHUNKS = 5  # in a window: 53 digits, 53 for its early start, 62, 53 for the result and a few more
WINDOWS = 19  # a double's last place reaches 2**971


class Turn(NamedTuple):
    """A reduced angle, and an integer whose two lowest bits count the quarter turns."""

    angle: Pair
    quarters: Value


@lru_cache(maxsize=1)
def pi_fraction() -> Fraction:
    """Return pi to 1,300 bits, by Machin's formula ``16 atan(1/5) - 4 atan(1/239)``."""
    one = 1 << 1320

    def inverse_tangent(n: int) -> int:
        total, power, k = 0, one // n, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power //= n * n
            k += 2
        return total

    return Fraction(16 * inverse_tangent(5) - 4 * inverse_tangent(239), one)


def round_to(type_name: str, number: Fraction) -> float:
    """Return the number of this type nearest to a fraction."""
    if not number:
        return 0.0
    shift = FORMATS[type_name].fraction - _exponent(number)
    return float(Fraction(round(number * Fraction(2) ** shift)) / Fraction(2) ** shift)


@lru_cache(maxsize=64)
def split(type_name: str, number: Fraction, parts: int) -> tuple[float, ...]:
    """Return the parts of a number: each the nearest to what the ones before it leave."""
    found: list[float] = []
    for _ in range(parts):
        found.append(round_to(type_name, number))
        number -= Fraction(found[-1])
    return tuple(found)


def _exponent(number: Fraction) -> int:
    size = abs(number)
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if size >= Fraction(2) ** guess else guess - 1


def nearest_integer(e: Emitter, x: Value) -> Pair:
    """``rint(x)``, and a number whose lowest bits are that integer's; for ``|x|`` below 2**21.

    Adding 1.5 * 2**23 (or 2**52) leaves no room for a fraction: cheaper than a conversion to an
    integer, which has no instruction for doubles before AVX-512 and is poison out of range.
    """
    shifter = e.real(x.type, 1.5 * 2 ** FORMATS[x.type].fraction)
    shifted = e.fadd(x, shifter)
    return Pair(e.fsub(shifted, shifter), shifted)


def reduce_any(e: Emitter, x: Value) -> Turn:
    """Take multiples of pi/2 off any finite double; NaN for an infinity.

    With ``X = x / 2**k``, where k is 0 or X an integer, and w what ``2**k * 2/pi`` leaves after
    multiples of four, ``x * 2/pi`` is ``X * w`` and a multiple of four. By sums without error: the
    fraction may be as small as 2**-62.
    """
    scaled, start = _scaled(e, x)
    *most, last = _window(e, start)
    products = [two_product(e, scaled, chunk) for chunk in most]
    tiny = e.fma(scaled, last, products[-1].low)
    # The first three terms may hold multiples of four. The first two are a product and its error,
    # and still the first is zero or the larger.
    first, second, third = (_less_fours(e, x) for x in (*products[0], products[1].high))
    total, error = quick_two_sum(e, first, second)
    total, errors = _sum(e, [total, third, products[1].low, products[2].high])
    count, shifted = nearest_integer(e, total)
    rest = [e.fsub(total, count), error, *errors, products[2].low, products[3].high]
    total, errors = _sum(e, rest)
    return Turn(_quarter_turns(e, total, [*errors, tiny]), e.bitcast(shifted, "i64"))


class WideTurn(NamedTuple):
    """A reduced angle of a float, in double, and an integer that counts the quarter turns."""

    angle: Value
    quarters: Value


def reduce_float(e: Emitter, x: Value) -> WideTurn:
    """The same for any finite float, in double.

    Its 53 digits hold a fraction as small as 2**-30 after one product and its error. The product is
    below 2**47, so that its nearest integer needs no multiples of four taken off first.
    """
    x = e.fpext(x, "double")
    high, low = _float_window(e, x)
    product = two_product(e, x, high)
    count, shifted = nearest_integer(e, product.high)
    turns = e.fadd(e.fsub(product.high, count), e.fma(x, low, product.low))
    angle = e.fmul(turns, e.real("double", split("double", pi_fraction() / 2, 1)[0]))
    return WideTurn(angle, e.bitcast(shifted, "i64"))


def _float_window(e: Emitter, x: Value) -> Pair:
    """The number w over 2**k, in two parts."""
    size = e.fabs(x)
    chosen = _float_choice(e, 0)
    for shift in range(FLOAT_STEP, 128 - FLOAT_BASE + FLOAT_STEP, FLOAT_STEP):
        bound = e.real("double", 2.0 ** (FLOAT_BASE + shift - FLOAT_STEP))
        beyond = e.fcmp("oge", size, bound)
        chosen = choose(e, beyond, _float_choice(e, shift), chosen)
    return chosen


def _float_choice(e: Emitter, shift: int) -> Pair:
    high, low = split("double", Fraction(2) ** (shift + 1) / pi_fraction() % 4, 2)
    scale = 2.0**-shift
    return Pair(e.real("double", high * scale), e.real("double", low * scale))


def _sum(e: Emitter, terms: Sequence[Value]) -> tuple[Value, list[Value]]:
    """The sum of terms and the rounding error of each addition.

    One pass of the error-free vector transformation (T. Ogita, S. Rump, S. Oishi, "Accurate sum
    and dot product", 2005).
    """
    total, errors = terms[0], []
    for term in terms[1:]:
        total, error = two_sum(e, total, term)
        errors.append(error)
    return total, errors


def _quarter_turns(e: Emitter, total: Value, small: Sequence[Value]) -> Pair:
    """``(total + small) * pi/2`` as a pair of doubles."""
    tail = small[-1]
    for term in reversed(small[:-1]):
        tail = e.fadd(tail, term)
    turns = two_sum(e, total, tail)
    high_part, low_part = (e.real("double", p) for p in split("double", pi_fraction() / 2, 2))
    product = two_product(e, turns.high, high_part)
    low = e.fma(turns.high, low_part, e.fma(turns.low, high_part, product.low))
    return quick_two_sum(e, product.high, low)


def _scaled(e: Emitter, x: Value) -> Pair:
    """``x / 2**(53 j)`` and the integer j: 0, or the largest that leaves an integer."""
    exponent = e.and_(e.lshr(e.bitcast(x, "i64"), e.whole("i64", 52)), e.whole("i64", 0x7FF))
    excess = e.sub(exponent, e.whole("i64", 1023 + 52))
    zero = e.whole("i64", 0)
    excess = e.select(e.icmp("sgt", excess, zero), excess, zero)
    # excess // 53 for all of 0 .. 1024, without a division
    start = e.lshr(e.mul(excess, e.whole("i64", 1237)), e.whole("i64", 16))
    power = e.sub(e.whole("i64", 1023), e.mul(start, e.whole("i64", CHUNK)))
    return Pair(e.fmul(x, e.bitcast(e.shl(power, e.whole("i64", 52)), "double")), start)


@lru_cache(maxsize=1)
def _chunks(count: int) -> tuple[float, ...]:
    """The bits of 2/pi from 2**1 down, 53 at a time, each as a number below 4."""
    bits = int(Fraction(2) ** (CHUNK * count - 1) / pi_fraction())
    mask = (1 << CHUNK) - 1
    return tuple(
        ((bits >> (CHUNK * (count - 1 - k))) & mask) / 2.0 ** (CHUNK - 2) for k in range(count)
    )


def _window(e: Emitter, start: Value) -> list[Value]:
    """``CHUNKS`` chunks from number ``start`` on, each times its power of two.

    A barrel shifter: one round of selects for each bit of ``start``.
    """
    table = [e.real("double", c) for c in _chunks(WINDOWS - 1 + CHUNKS)]
    for bit in reversed(range((WINDOWS - 1).bit_length())):
        step = 1 << bit
        moved = e.icmp("ne", e.and_(start, e.whole("i64", step)), e.whole("i64", 0))
        table = [
            e.select(moved, table[k + step], table[k]) if k + step < len(table) else table[k]
            for k in range(min(len(table), CHUNKS + step - 1))
        ]
    scales = [e.real("double", 2.0 ** (-CHUNK * k)) for k in range(CHUNKS)]
    return [e.fmul(chunk, scale) for chunk, scale in zip(table, scales, strict=True)]


def _less_fours(e: Emitter, x: Value) -> Value:
    fours = e.rint(e.fmul(x, e.real("double", 0.25)))
    return e.fma(fours, e.real("double", -4.0), x)
