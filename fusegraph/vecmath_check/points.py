"""Where the functions are checked: arguments over all exponents, and densely where things change.

In: a subject, how many points, a seed. Out: one array an operand.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from fusegraph.engines.llvm.argument_reduction import pi_fraction
from fusegraph.vecmath_check.subjects import Array, Subject

Generator = np.random.Generator
DIGITS = {"float32": 24, "float64": 53}
INTEGERS: dict[str, Any] = {"float32": np.dtype("i4"), "float64": np.dtype("i8")}
ANGLES = ("sin", "cos", "tan")
HALF_PI = float(pi_fraction() / 2)


def draw(subject: Subject, count: int, seed: tuple[int, ...]) -> tuple[Array, ...]:
    """``count`` points, the same ones for the same seed on every machine."""
    rng = np.random.default_rng(seed)
    first = _one(rng, subject, count)
    if subject.arity == 1:
        return (first,)
    second = _one(rng, subject, count)
    beside = _BESIDE.get(subject.name, _of_like_size)
    half = count // 2
    with np.errstate(all="ignore"):
        first[:half], second[:half] = beside(rng, first[:half], subject)
    return first, second


def _one(rng: Generator, subject: Subject, count: int) -> Array:
    quarter = count // 4
    parts = [
        _bit_patterns(rng, subject, quarter),
        _ordinary(rng, subject, quarter),
        _near_edges(rng, subject, count - 2 * quarter),
    ]
    if subject.name in ANGLES:
        parts[1][::2] = _multiples_of_half_pi(rng, subject, parts[1][::2].size)
    found = np.concatenate(parts)
    rng.shuffle(found)
    return found


def _bit_patterns(rng: Generator, subject: Subject, count: int) -> Array:
    integer = INTEGERS[subject.dtype]
    info = np.iinfo(integer)
    bits: Array = rng.integers(info.min, info.max, count, integer, endpoint=True)
    return bits.view(subject.dtype)


def _signs(rng: Generator, count: int) -> Array:
    return rng.integers(0, 2, count) * 2.0 - 1.0


def _ordinary(rng: Generator, subject: Subject, count: int) -> Array:
    """From 2**-30 to 2**11, even in their logarithms."""
    return (_signs(rng, count) * np.exp2(rng.uniform(-30, 11, count))).astype(subject.dtype)


def _near_edges(rng: Generator, subject: Subject, count: int) -> Array:
    """Half of them up to 2**16 numbers from an edge, half relatively 1 to 2**-52 from it."""
    info: Any = np.finfo(np.dtype(subject.dtype))
    always = (0.0, 1.0, float(info.tiny), float(info.max), float(info.smallest_subnormal))
    known = [edge for edge in (*subject.edges, *always) if edge <= float(info.max)]
    centres = rng.choice(np.array(known), count) * _signs(rng, count)
    half = count // 2
    steps = np.exp2(rng.uniform(0, 16, half)) * _signs(rng, half)
    close = centres[:half].astype(subject.dtype)
    integer = INTEGERS[subject.dtype]
    bits = close.view(integer) + steps.astype(integer)
    with np.errstate(over="ignore"):
        factor = 1 + _signs(rng, count - half) * np.exp2(-rng.uniform(0, 52, count - half))
        wide = (centres[half:] * factor).astype(subject.dtype)
    return np.concatenate([bits.view(subject.dtype), wide])


def _multiples_of_half_pi(rng: Generator, subject: Subject, count: int) -> Array:
    """``k * pi/2`` rounded, and the numbers after and before it, for k of all sizes."""
    largest = 120.0 if subject.dtype == "float32" else 1000.0
    k = np.rint(np.exp2(rng.uniform(0, largest, count)))
    k[::2] = np.rint(np.exp2(rng.uniform(0, 30, k[::2].size)))
    close = (k * HALF_PI * _signs(rng, count)).astype(subject.dtype)
    integer = INTEGERS[subject.dtype]
    bits: Array = close.view(integer) + rng.integers(-2, 3, count, integer)
    found = bits.view(subject.dtype)
    found[1::4] = rng.choice(hardest_angles(subject.dtype), found[1::4].size)
    return found


@cache
def hardest_angles(dtype: str) -> Array:
    """For every exponent, the numbers that come nearest to a multiple of pi/2.

    They are the denominators of the convergents of ``2**e / (pi/2)`` (J.-M. Muller, Elementary
    Functions, 3rd ed., section 11.3.2), and twice and three times them.
    """
    digits, end = DIGITS[dtype], int(np.finfo(np.dtype(dtype)).maxexp)
    found = []
    for exponent in range(-digits, end - digits + 1):
        best = _last_denominator(Fraction(2) ** (exponent + 1) / pi_fraction(), 1 << digits)
        found += [m * 2.0**exponent for m in (best, 2 * best, 3 * best) if m < 1 << digits]
    return np.array(found).astype(dtype)


def _last_denominator(ratio: Fraction, limit: int) -> int:
    """The denominator below ``limit`` of the best convergent of a continued fraction."""
    above, below = ratio.numerator, ratio.denominator
    before, last = 1, 0
    while below:
        quotient, rest = divmod(above, below)
        before, last = last, quotient * last + before
        if last >= limit:
            return before
        above, below = below, rest
    return last


# --- second operands ------------------------------------------------------------------------------


def _of_like_size(rng: Generator, first: Array, subject: Subject) -> tuple[Array, Array]:
    """Within 2**±60 of the first: where neither side is lost in the other."""
    factor = np.exp2(rng.uniform(-1, 1, first.size) * rng.choice([1.0, 12.0, 60.0], first.size))
    return first, (first * factor * _signs(rng, first.size)).astype(subject.dtype)


def _of_ordinary_powers(rng: Generator, first: Array, subject: Subject) -> tuple[Array, Array]:
    """Exponents with which powers are ordinary, subnormal or just infinite; whole ones among them."""
    end = 160.0 if subject.dtype == "float32" else 1100.0
    quarter = first.size // 4
    near_one = 1.0 + _signs(rng, quarter) * np.exp2(-rng.uniform(1, 50, quarter))
    first[:quarter] = near_one.astype(subject.dtype)
    first[quarter : 3 * quarter] = np.abs(first[quarter : 3 * quarter])
    logarithm = np.log2(np.abs(first.astype("f8")))
    second = (rng.uniform(-end, end, first.size) / logarithm).astype(subject.dtype)
    second[::8] = np.rint(second[::8])
    second[1::8] = rng.integers(-9, 10, second[1::8].size) / 2
    return first, second


def _of_near_logarithms(rng: Generator, first: Array, subject: Subject) -> tuple[Array, Array]:
    """Up to 60 apart, equal, and where the sum of both exponentials is nearly 1."""
    first = (_signs(rng, first.size) * np.exp2(rng.uniform(-20, 8, first.size))).astype(
        subject.dtype
    )
    apart = rng.uniform(-60, 60, first.size) * rng.choice([0.0, 0.02, 1.0], first.size)
    second = first + apart
    third = first.size // 3
    first[:third] = -np.exp2(rng.uniform(-40, 3, third))
    second[:third] = np.log1p(-np.exp(first[:third].astype("f8")))
    if subject.name == "logaddexp2":
        second[:third] = np.log2(1 - np.exp2(first[:third].astype("f8")))
    return first, second.astype(subject.dtype)


_BESIDE: dict[str, Callable[[Generator, Array, Subject], tuple[Array, Array]]] = {
    "pow": _of_ordinary_powers,
    "logaddexp": _of_near_logarithms,
    "logaddexp2": _of_near_logarithms,
}
