"""Vector math: the functions of the op table that LLVM has no instruction for, as IR.

In: a row's name and a type. Out: the definition of a function that inlines and vectorises, and the
declarations of what it calls. One row a function; ``python -m fusegraph.vecmath_check`` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fusegraph.engines.llvm import angles, inverse_hyperbolics, powers
from fusegraph.engines.llvm import exponentials as exps
from fusegraph.engines.llvm import logarithms as logs
from fusegraph.engines.llvm.error_function import erf
from fusegraph.engines.llvm.ir import Emitter, Value


@dataclass(frozen=True, slots=True)
class MathFunction:
    """One function.

    ``edges`` are arguments about which the method changes or the result ends; tests draw points densely
    around them, and around their negatives. ``wide`` ones take floats by way of double.
    """

    name: str
    arity: int
    emit: Callable[..., Value]
    source: str
    edges: tuple[float, ...] = ()
    wide: bool = False


CODY_WAITE = "Cody and Waite 1980, polynomials of our own"
FDLIBM = "FDLIBM 1993, polynomials of our own"
PAIRS = "log2 in the form of FDLIBM 1993, in pairs"
SUM_OF_EXP = "log1p of exp, in pairs (Blanchard 2021)"
SQUARES = "squares in double, or scaled (Blue 1978)"
PAYNE_HANEK = "Payne and Hanek 1983, polynomials of our own"
LOG1P = "log1p in the form of FDLIBM 1993, polynomials of our own"
MITCHELL = "addition theorem, Mitchell 1962 for the exponent"
POWERS = (0.5, 126.0, 128.0, 150.0, 1022.0, 1024.0, 1075.0)
FLAT = (3.92, 4.0, 5.92, 6.0)
ENDS = (88.8, 103.98, 709.79, 745.2)
ROOTS = (0.0, 1.0, 0.5**0.5, 2.0**0.5)
SCALES = (0.0, 2.0**-450, 2.0**500)
APART = (0.0, 1.0, 17.0, 38.0, *ENDS)
TURNS = tuple(k * math.pi / 4 for k in range(1, 9))
# 1e5 and 1e12 are no edges, but the recorded errors are of points about them too.
FAR = (1e5, 1e12, 2.0**45, 2.0**106)
TINY, HUGE = angles.TINY.values(), inverse_hyperbolics.HUGE.values()

# fmt: off
ROWS: tuple[MathFunction, ...] = (
    MathFunction("exp", 1, exps.exp, CODY_WAITE, (0.0, 0.3466, 86.6, 708.4, *ENDS)),
    MathFunction("exp2", 1, exps.exp2, CODY_WAITE, (0.0, *POWERS)),
    MathFunction("expm1", 1, exps.expm1, CODY_WAITE, (0.0, 0.35, 18.0, 30.0, 38.0, 40.0, *ENDS)),
    MathFunction("tanh", 1, exps.tanh, "Cephes 1989 and FDLIBM 1993", (0.0, 0.17, 0.625, 9.1, 19.1)),
    MathFunction("sinh", 1, exps.sinh, CODY_WAITE, (0.0, 1.0, 89.42, 710.48, *ENDS)),
    MathFunction("cosh", 1, exps.cosh, CODY_WAITE, (0.0, 89.42, 710.48, *ENDS)),
    MathFunction("sigmoid", 1, exps.sigmoid, CODY_WAITE, (0.0, 0.35, 17.0, 44.0, 87.3, 708.4, *ENDS)),
    MathFunction("erf", 1, erf, "fits of erf(x)/x and log(erfc(x))", (0.0, 1.0, *FLAT)),
    MathFunction("log", 1, logs.log, FDLIBM, ROOTS),
    MathFunction("log1p", 1, logs.log1p, FDLIBM, (0.0, 0.4142, 0.2929, 1.0)),
    MathFunction("log2", 1, logs.log2, FDLIBM, ROOTS),
    MathFunction("log10", 1, logs.log10, FDLIBM, ROOTS),
    MathFunction("cbrt", 1, powers.cbrt, "Kahan 1991, Householder's iteration", (0.0, 1.0, 8.0)),
    MathFunction("hypot", 2, powers.hypot, SQUARES, SCALES, wide=True),
    MathFunction("logaddexp", 2, powers.logaddexp, SUM_OF_EXP, APART, wide=True),
    MathFunction("logaddexp2", 2, powers.logaddexp2, SUM_OF_EXP, APART, wide=True),
    MathFunction("pow", 2, powers.power, PAIRS, ROOTS, wide=True),
    MathFunction("sin", 1, angles.sin, PAYNE_HANEK, (*TURNS, *TINY, *FAR), wide=True),
    MathFunction("cos", 1, angles.cos, PAYNE_HANEK, (*TURNS, *FAR), wide=True),
    MathFunction("tan", 1, angles.tan, PAYNE_HANEK, (*TURNS, *TINY, *FAR), wide=True),
    MathFunction("asin", 1, angles.asin, CODY_WAITE, (0.5, 1.0)),
    MathFunction("acos", 1, angles.acos, CODY_WAITE, (0.5, 1.0)),
    MathFunction("atan", 1, angles.atan, CODY_WAITE, (1.0,)),
    MathFunction("atan2", 2, angles.atan2, CODY_WAITE, (1.0,)),
    MathFunction("asinh", 1, inverse_hyperbolics.asinh, LOG1P, (0.125**0.5, *HUGE)),
    MathFunction("acosh", 1, inverse_hyperbolics.acosh, LOG1P, (1.0, 1.125**0.5, *HUGE)),
    MathFunction("atanh", 1, inverse_hyperbolics.atanh, MITCHELL, (1 / 3, 0.5, 1.0)),
)
# fmt: on

CANCELS = ("logaddexp", "logaddexp2")
"""Functions whose results near zero NumPy takes from rounded terms: here they are more accurate."""

TABLE: dict[str, MathFunction] = {row.name: row for row in ROWS}


def symbol(name: str, type_name: str) -> str:
    """What a function is called in IR."""
    return f"fg_{name}_{'f64' if type_name == 'double' else 'f32'}"


class Definition(NamedTuple):
    """The definition of a function in IR, and ``declare`` lines of what it calls."""

    text: str
    declarations: tuple[str, ...]


@cache
def definition(name: str, type_name: str) -> Definition:
    """A function that inlines and vectorises."""
    row = TABLE[name]
    e = Emitter()
    arguments = [Value(type_name, f"%x{at}") for at in range(row.arity)]
    result = row.emit(e, *arguments)
    listed = ", ".join(f"{type_name} {x.name}" for x in arguments)
    lines = [
        f"define internal {type_name} @{symbol(name, type_name)}({listed}) alwaysinline {{",
        *e.lines,
        f"  ret {type_name} {result.name}",
        "}",
    ]
    return Definition("\n".join(lines), e.declarations)
