"""Reductions over rows in IR: every column has an accumulator of its own, in memory.

In: a reduction along all axes but the last. Out: what begins an accumulator, takes an element and gives
the result, element by element, so that a loop over a row vectorises. Sums of doubles keep what their
additions were rounded by (Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B):
along the column of a panel, however long, two roundings remain. Those of float32 are added up in double.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusegraph.engines.llvm.casts import cast
from fusegraph.engines.llvm.codegen import evaluate
from fusegraph.engines.llvm.folds import fold_of
from fusegraph.engines.llvm.ir import Emitter
from fusegraph.engines.llvm.values import Parts, literal
from fusegraph.graph import DType, Node, reduced_axes

NARROWEST = 16  # columns; a loop over fewer is all beginning and end


def is_column(node: Node) -> bool:
    """Does a reduction run along every axis but the last?"""
    if node.kind != "reduce":
        return False
    rank = len(node.inputs[0].shape)
    return rank > 1 and reduced_axes(node) == tuple(range(rank - 1))


def has_column(node: Node) -> bool:
    """Is there code for such a reduction of these dtypes, over enough columns?"""
    operand = node.inputs[0]
    known = fold_of(node.op.name, operand.dtype, node.dtype) is not None
    return is_column(node) and known and operand.shape[-1] >= NARROWEST


def accumulators(node: Node) -> int:
    """How many values of its dtype a column keeps: a sum of doubles has its errors beside it."""
    return 2 if node.op.name == "sum" and node.dtype == np.float64 == node.inputs[0].dtype else 1


def begun(e: Emitter, node: Node) -> list[Parts]:
    """The accumulators before the first element: what changes nothing, and no errors."""
    values = [_identity(node.op.name, node.dtype), *[0] * (accumulators(node) - 1)]
    return [literal(e, value, node.dtype) for value in values]


def _identity(name: str, dtype: DType) -> Any:
    if name in ("sum", "any"):
        return dtype.type(0)
    if name == "all":
        return dtype.type(1)
    if dtype.kind == "f":
        return dtype.type(-np.inf if name == "max" else np.inf)
    info = np.iinfo(dtype)
    return dtype.type(info.min if name == "max" else info.max)


def taken(e: Emitter, node: Node, kept: Sequence[Parts], element: Parts) -> list[Parts]:
    """The accumulators after one more element."""
    dtype = node.dtype
    x = cast(e, element, node.inputs[0].dtype, dtype)
    if len(kept) == 1:
        return [evaluate(e, node.op.combines, (dtype, dtype), dtype, (kept[0], x))]
    (total,), (errors,) = kept
    found = e.fadd(total, x[0])
    b = e.fsub(found, total)
    error = e.fadd(e.fsub(total, e.fsub(found, b)), e.fsub(x[0], b))
    finite = e.fcmp("ord", error, error)  # that of an infinite sum counts as zero
    return [(found,), (e.fadd(errors, e.select(finite, error, e.real("double", 0.0))),)]


def finished(e: Emitter, kept: Sequence[Parts]) -> Parts:
    """The result."""
    return kept[0] if len(kept) == 1 else (e.fadd(kept[0][0], kept[1][0]),)
