"""Blosc2: the function as a lazy expression over NumPy's arrays.

Operands are NumPy's arrays behind Blosc2's proxy, which were as fast as its own uncompressed arrays, and
faster than its compressed ones. Over its own arrays ``tanh`` ended the process (4.14.1). Products exist
for its own arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fusegraph.bench import functions
from fusegraph.bench.runners.base import Call, Runner
from fusegraph.bench.runners.programs import PROGRAMS, bind_literals
from fusegraph.bench.suite import Row, as_list

# Of operators it took 7 times as long, and where() within the expression gave wrong values (4.14.1).
TEXTS = {functions.black_scholes: PROGRAMS["black_scholes"].texts["out"]}


class BloscRunner(Runner):
    """The expression is built and computed at each call, into NumPy's arrays."""

    name: ClassVar[str] = "blosc2"
    packages: ClassVar[tuple[str, ...]] = ("blosc2",)
    ways = ("blosc2",)
    blosc2: Any

    def load(self) -> None:
        import blosc2  # noqa: PLC0415  (optional)

        self.blosc2 = blosc2

    def own(self, row: Row, arrays: Sequence[Any]) -> list[Any]:
        if row.function in (functions.product, functions.layer):
            return [self.blosc2.asarray(a, cparams={"clevel": 0}) for a in arrays]
        if row.function in TEXTS:
            return list(arrays)
        return [self.blosc2.SimpleProxy(a) for a in arrays]

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        blosc2, function = self.blosc2, row.function
        if function in TEXTS:
            return _of_text(blosc2, row)
        return lambda *arrays: [_computed(r) for r in as_list(function(blosc2, *arrays))]


def _of_text(blosc2: Any, row: Row) -> Call:
    text, constants = bind_literals(TEXTS[row.function], row.dtype)
    names = row.arguments

    def call(*arrays: Any) -> Any:
        return blosc2.lazyexpr(text, constants | dict(zip(names, arrays, strict=True)))[()]

    return call


def _computed(result: Any) -> Any:
    """A lazy expression's values; reductions are values already."""
    return np.asarray(result[()] if hasattr(result, "compute") else result)
