"""Reductions of a run of elements in IR: sum, min, max, any and all.

In: a row's name, the dtype of the operand and that of the result. Out: a ``Fold``, three functions over
a state in memory, so that a row can pass by in chunks: begin, take ``count`` elements, finish; and the
``Recipe`` by which elements are put together. Sums of 32 bits are added up in 64, four at a time.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from fusegraph.engines.llvm.double_sums import sum_of_doubles
from fusegraph.engines.llvm.extremes import float_extreme
from fusegraph.engines.llvm.lanes import Combine, Fold, Recipe, flags, laned
from fusegraph.graph import DType

IDENTITY = {"any": "0", "all": "1"}
INTEGERS = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}
FLOATS = {4: "float", 8: "double"}
INFINITY = {"min": "0x7FF0000000000000", "max": "0xFFF0000000000000"}


@cache
def fold_of(name: str, operand: DType, result: DType, made: str = "") -> Fold | None:
    """The fold of a reduction row, or None where there is none; see ``Recipe`` for what is ``made``."""
    recipe = recipe_of(name, operand, result)
    if recipe is None:
        return None
    if made:
        recipe = recipe._replace(symbol=f"{recipe.symbol}_{made}", made=made)
    if recipe.misses_nan:
        return float_extreme(recipe)
    return sum_of_doubles(recipe) if recipe.element == "double" else laned(recipe)


def recipe_of(name: str, operand: DType, result: DType) -> Recipe | None:
    """How a reduction row puts elements together, or None where there is no code for it."""
    if name in ("any", "all"):
        return _logical(name) if operand.kind == "b" else None
    if name in ("min", "max"):
        return _extreme(name, operand) if operand == result else None
    return _sum(operand, result) if name == "sum" else None


def _logical(name: str) -> Recipe:
    def combine(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [f"  {out} = {'or' if name == 'any' else 'and'} {kind} {acc}, {x}"]

    return Recipe(f"fg_{name}", "i8", "i8", "", IDENTITY[name], combine)


def _extreme(name: str, dtype: DType) -> Recipe | None:
    if dtype.kind == "f" and dtype.itemsize in FLOATS:
        kind = FLOATS[dtype.itemsize]
        chosen = "fcmp ogt" if name == "max" else "fcmp olt"
        combine = _chosen(chosen)
        return Recipe(f"fg_{name}_{kind}", kind, kind, "", INFINITY[name], combine, misses_nan=True)
    if dtype.kind in "iu":
        info, kind = np.iinfo(dtype), INTEGERS[dtype.itemsize]
        ends = str(info.min if name == "max" else info.max)
        sign = "s" if dtype.kind == "i" else "u"
        chosen = f"icmp {sign}{'gt' if name == 'max' else 'lt'}"
        return Recipe(f"fg_{name}_{dtype.name}", kind, kind, "", ends, _chosen(chosen))
    return None


def _chosen(comparison: str) -> Combine:
    def combine(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [
            f"  {out}.c = {comparison} {kind} {x}, {acc}",
            f"  {out} = select {flags(kind)} {out}.c, {kind} {x}, {kind} {acc}",
        ]

    return combine


def _sum(operand: DType, result: DType) -> Recipe | None:
    def add(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [f"  {out} = {'fadd' if 'double' in kind else 'add'} {kind} {acc}, {x}"]

    if operand.kind == "f" and result.kind == "f" and operand.itemsize <= result.itemsize:
        if operand.itemsize not in FLOATS:
            return None
        element = FLOATS[operand.itemsize]
        widen = "fpext" if element == "float" else ""
        return Recipe(f"fg_sum_{element}", element, "double", widen, "0.0", add)
    if operand.kind in "biu" and result.kind in "iu":
        kind = INTEGERS[operand.itemsize]
        widen = "sext" if operand.kind == "i" else "zext"
        widen = widen if kind != "i64" else ""
        return Recipe(f"fg_sum_{operand.name}", kind, "i64", widen, "0", add)
    return None
