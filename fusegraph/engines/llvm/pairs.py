"""Sums and products with their rounding errors: numbers of twice the precision, as IR.

In: an Emitter and Values of one floating-point type. Out: ``Pair``s, whose ``high + low`` is the
number and whose ``low`` is at most half a unit in the last place of ``high``; and polynomials.

Sources: O. Møller (1965) and D. Knuth, The Art of Computer Programming, vol. 2, 4.2.2 (two_sum);
T. Dekker, "A floating-point technique for extending the available precision" (1971); J.-M. Muller
et al., Handbook of Floating-Point Arithmetic, 2nd ed., chapters 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fusegraph.engines.llvm.ir import Emitter, Value

SHORT_POLYNOMIAL = 12  # coefficients up to which one chain is fast enough
LEADING = 4  # coefficients of a longer one that stay in one chain


class Pair(NamedTuple):
    """An unevaluated sum ``high + low``."""

    high: Value
    low: Value


def choose(e: Emitter, condition: Value, a: Pair, b: Pair) -> Pair:
    """``a`` where ``condition`` holds, else ``b``."""
    return Pair(e.select(condition, a.high, b.high), e.select(condition, a.low, b.low))


def two_sum(e: Emitter, a: Value, b: Value) -> Pair:
    """``a + b`` and its rounding error, whichever is larger (Knuth's six operations)."""
    high = e.fadd(a, b)
    from_b = e.fsub(high, a)
    from_a = e.fsub(high, from_b)
    return Pair(high, e.fadd(e.fsub(a, from_a), e.fsub(b, from_b)))


def quick_two_sum(e: Emitter, a: Value, b: Value) -> Pair:
    """``a + b`` and its rounding error where ``|a| >= |b|`` or ``a`` is zero (Dekker's three)."""
    high = e.fadd(a, b)
    return Pair(high, e.fadd(e.fsub(a, high), b))


def two_product(e: Emitter, a: Value, b: Value) -> Pair:
    """``a * b`` and its rounding error, by a fused multiply-add."""
    high = e.fmul(a, b)
    return Pair(high, e.fma(a, b, e.fneg(high)))


def pair_product(e: Emitter, a: Pair, b: Pair) -> Pair:
    """``a * b``; both parts' products but that of the low ones (Dekker 1971)."""
    high, low = two_product(e, a.high, b.high)
    return Pair(high, e.fma(a.high, b.low, e.fma(a.low, b.high, low)))


def polynomial(e: Emitter, z: Value, coefficients: Sequence[float | Value]) -> Value:
    """``sum(c * z**k for k, c in enumerate(coefficients))`` by Horner's rule.

    The high powers of a long one run as two chains, even and odd: a loop of few vectors waits for
    the longest chain. The low powers do not: where signs alternate, the difference of two chains
    near z = 1 would lose a bit or two.
    """
    if len(coefficients) <= SHORT_POLYNOMIAL:
        return _horner(e, z, coefficients)
    square = e.fmul(z, z)
    even = _horner(e, square, coefficients[LEADING::2])
    high = e.fma(_horner(e, square, coefficients[LEADING + 1 :: 2]), z, even)
    return _horner(e, z, coefficients[:LEADING], high)


def _horner(
    e: Emitter, z: Value, coefficients: Sequence[float | Value], total: Value | None = None
) -> Value:
    for coefficient in reversed(coefficients):
        constant = coefficient if isinstance(coefficient, Value) else e.real(z.type, coefficient)
        total = constant if total is None else e.fma(total, z, constant)
    assert total is not None
    return total
