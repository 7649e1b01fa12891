"""Reductions of a run so short that it is one vector, as IR.

In: a ``Recipe`` and a number of lanes. Out: ``VectorFold``, a function that loads the run (lanes behind
its end are the identity) and puts its halves together until one element is left: a tree, the same
whatever the processor's vectors.
"""

from __future__ import annotations

from typing import NamedTuple

from fusegraph.engines.llvm.lanes import Recipe, declared, flags, halved, masked_load


class VectorFold(NamedTuple):
    """``<result> @<symbol>(ptr run, <lanes x i1> which)``, and what its module declares."""

    symbol: str
    result: str
    text: str
    declarations: tuple[str, ...]


def vector_fold(recipe: Recipe, lanes: int) -> VectorFold:
    """The fold of runs of at most ``lanes`` elements, a power of two."""
    kind, widen = recipe.kind, recipe.widen
    symbol, many = f"{recipe.symbol}_{lanes}", f"<{lanes} x {recipe.element}>"
    x = "%x" if widen else "%e"
    found = f"{x}.1"
    lines = [
        f"define internal {kind} @{symbol}(ptr %p, <{lanes} x i1> %which) alwaysinline {{",
        masked_load("%e", recipe, lanes, "%p", "%which"),
        *([f"  %x = {widen} {many} %e to <{lanes} x {kind}>"] if widen else []),
        *halved(x, recipe, lanes),
    ]
    if recipe.misses_nan:
        lines += [
            f"  %u = fcmp uno {many} %e, %e",
            f"  %bits = bitcast {flags(many)} %u to i{lanes}",
            f"  %some = icmp ne i{lanes} %bits, 0",
            f"  %found = select i1 %some, {kind} 0x7FF8000000000000, {kind} {found}",
        ]
        found = "%found"
    else:  # NumPy begins with the identity: a full vector of -0.0 adds up to 0.0
        lines += recipe.combine("%total", kind, found, recipe.identity)
        found = "%total"
    text = "\n".join([*lines, f"  ret {kind} {found}", "}"])
    return VectorFold(symbol, kind, text, declared(recipe, lanes))
