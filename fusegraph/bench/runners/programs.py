"""numexpr: rows as the text of its programs.

numexpr reduces over everything or along one axis, and that ends a program: rows whose reductions feed
further work have no form here. A program gives one result, so a row with several takes several. A
constant such as 2.5 would make float32 arrays float64, so it is passed as a number of the row's dtype;
``maximum`` is float64 whatever it is given, so ``where`` stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numexpr
import numpy as np

from fusegraph.bench.runners.base import Call, Runner, UnsupportedError
from fusegraph.bench.suite import Row

LITERAL = re.compile(r"(?<![\w.=])\d+\.?\d*(?:e-?\d+)?")
NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs by the name of their value, in order; later ones may name earlier ones and ``count``.

    ``returns`` names the results; ``count`` is the length of the first array.
    """

    texts: dict[str, str]
    returns: tuple[str, ...]


def _one(text: str) -> Programs:
    return Programs({"out": text}, ("out",))


def _black_scholes() -> str:
    above = "((log(spot/strike) + 0.065*years)/(0.3*sqrt(years)))"
    below = f"({above} - 0.3*sqrt(years))"
    return f"spot*{_normal_share(above)} - strike*exp(-0.02*years)*{_normal_share(below)}"


def _normal_share(x: str) -> str:
    t = f"(1/(1 + 0.2316419*abs({x})))"
    series = f"{t}*(-1.821255978 + {t}*1.330274429)"
    series = f"{t}*(0.31938153 + {t}*(-0.356563782 + {t}*(1.781477937 + {series})))"
    tail = f"(0.3989422804014327*exp(-0.5*({x}*{x}))*{series})"
    return f"where({x} > 0, 1 - {tail}, {tail})"


PROGRAMS: dict[str, Programs] = {
    "add": _one("a + b"),
    "triad": _one("a + 2.5*b"),
    "hardswish": _one("x*where(x + 3 < 0, 0, where(x + 3 > 6, 6, x + 3))/6"),
    "polynomial": _one(
        "(((((((((x*0.1 + 0.2)*x - 0.35)*x - 0.25)*x - 0.15)*x - 0.05)*x + 0.05)*x + 0.15)*x"
        " + 0.25)*x + 0.35)*x + 0.45"
    ),
    "adam": Programs(
        {
            "mean": "0.9*m + 0.1*g",
            "square": "0.999*v + 0.001*(g*g)",
            "out": "p - 0.001*mean/(sqrt(square) + 1e-8)",
        },
        ("out", "mean", "square"),
    ),
    "clamp_select": _one("where(a > b, a*2 - b, b*2 - a)"),
    "column_bias": _one("where(x*scale + bias > 0, x*scale + bias, 0)"),
    "integers": _one("(a*3 + b) & (a | 7)"),
    "exp": _one("exp(x)"),
    "gelu": _one("0.5*x*(1 + tanh(0.7978845608028654*(x + 0.044715*(x*x*x))))"),
    "sigmoid": _one("1/(1 + exp(-x))"),
    "softplus": _one("where(x > 0, x, 0) + log1p(exp(-abs(x)))"),
    "distance": _one("sqrt((a - b)*(a - b) + (a + b)*(a + b))"),
    "black_scholes": _one(_black_scholes()),
    "squared_error": _one("sum((a - b)*(a - b))"),
    "column_mean": Programs({"total": "sum(x, axis=0)", "out": "total/count"}, ("out",)),
    "extremes": Programs({"least": "min(x)", "largest": "max(x)"}, ("least", "largest")),
}


class NumexprRunner(Runner):
    """``numexpr.evaluate`` of each program, on all of its threads."""

    name: ClassVar[str] = "numexpr"
    packages: ClassVar[tuple[str, ...]] = ("numexpr",)
    ways = ("numexpr",)

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        programs = PROGRAMS.get(row.function.__name__)
        if programs is None:
            raise UnsupportedError("a reduction or a product within the expression")
        return compiled(programs, row.arguments, row.dtype)


def compiled(programs: Programs, names: Sequence[str], dtype: str) -> Call:
    """A function of the arrays called ``names``."""
    bound = {name: bind_literals(text, dtype) for name, text in programs.texts.items()}
    number = np.dtype(dtype).type

    def call(*arrays: Any) -> list[Any]:
        values = dict(zip(names, arrays, strict=True)) | {"count": number(len(arrays[0]))}
        for name, (text, constants) in bound.items():
            known = {n: values[n] for n in NAME.findall(text) if n in values}
            values[name] = numexpr.evaluate(text, known | constants)
        return [values[name] for name in programs.returns]

    return call


def bind_literals(text: str, dtype: str) -> tuple[str, dict[str, Any]]:
    """``text`` with its literals named, and numbers of ``dtype`` by those names."""
    number = np.dtype(dtype).type
    constants: dict[str, Any] = {}

    def named(match: re.Match[str]) -> str:
        name = f"c{re.sub('[^0-9]', '_', match[0])}"
        constants[name] = number(match[0])
        return name

    return LITERAL.sub(named, text), constants
