"""The two floating-point types that vector math is written for: how their bits lie.

In: a type in IR. Out: its ``Format``, and powers of two made of bits.
"""

from __future__ import annotations

from typing import NamedTuple

from fusegraph.engines.llvm.ir import Emitter, Value


class Format(NamedTuple):
    """A floating-point type."""

    integer: str  # the type of its bits
    fraction: int  # bits, and the place of the exponent's lowest
    bias: int  # of the exponent

    @property
    def sign(self) -> int:
        """The place of the sign bit."""
        return int(self.integer[1:]) - 1

    @property
    def least_normal(self) -> float:
        return 2.0 ** (1 - self.bias)


FORMATS = {"float": Format("i32", 23, 127), "double": Format("i64", 52, 1023)}


def power_of_two(e: Emitter, biased: Value, kind: str) -> Value:
    """The power whose exponent stands in the lowest bits of ``biased``."""
    return e.bitcast(e.shl(biased, e.whole(biased.type, FORMATS[kind].fraction)), kind)
