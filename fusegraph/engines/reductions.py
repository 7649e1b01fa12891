"""Reductions inside panels: along whole axes, and to partial results that are combined at the end.

In: a reduction row. Out: calls with ``out=``. A sum of floats over rows is added up as a tree: every
element passes through some 16 sequential additions and then one a doubling, as in NumPy's pairwise
sum of a contiguous array. Partial sums of up to 32 bits are combined in 64. So the bound is that of the
pairwise sum (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2): ``log2(n) + 16``
roundings of the working precision, and fewer where partial sums are wider.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fusegraph.engines.base import Array
from fusegraph.graph import DType, Node
from fusegraph.ops import OPS

LONG_ROW = 256  # elements of a row along which one call of NumPy runs well
SEQUENTIAL = 16  # additions one after the other before the tree begins


def reorders(node: Node) -> bool:
    """Does another order of the operands change the result? Sums and products of floats."""
    return node.op.name in ("sum", "prod") and node.dtype.kind in "fc"


def has_partials(node: Node) -> bool:
    """Can the reduction be put together from partial results?"""
    return bool(node.op.combines)


def ufunc_of(node: Node) -> np.ufunc:
    """The ufunc that puts two elements of a reduction together."""
    found = OPS[node.op.combines].function
    assert isinstance(found, np.ufunc), node
    return found


def reduction_of(node: Node) -> Callable[..., Any]:
    """NumPy's reduction: that of the ufunc behind its function, whose layers of Python take 1.3 us."""
    return ufunc_of(node).reduce if node.op.combines else node.op.function


def whole_axes(node: Node, axes: tuple[int, ...]) -> Callable[..., Any]:
    """NumPy's own reduction along ``axes`` of a panel."""
    reduction = reduction_of(node)
    if not node.op.combines:  # a place: argmax, argmin
        return partial(reduction, axis=axes[0], keepdims=True)
    return partial(reduction, axis=axes, keepdims=True, dtype=dict(node.params).get("dtype"))


def to_partial(node: Node, axes: tuple[int, ...]) -> Callable[..., Any]:
    """The reduction of a panel along ``axes`` to a partial result."""
    ufunc, working = ufunc_of(node), _working_dtype(node)
    exact, left = not reorders(node), sorted(axes)
    together = left == list(range(left[0], left[-1] + 1))

    def reduce(x: Array, out: Array) -> None:
        if together and left[-1] == x.ndim - 1 and x.flags.c_contiguous:
            # The most common case of what follows, without its Python: 1.3 us and 2.3.
            out[...] = ufunc.reduce(x, axis=axes, dtype=working, keepdims=True)
            return
        fast = [a for at, a in enumerate(reversed(left)) if a == x.ndim - 1 - at]
        if fast:  # axes that lie together are one to NumPy, whose sum is pairwise there
            fast = fast if x.flags.c_contiguous else fast[:1]
            x = ufunc.reduce(x, axis=tuple(fast), keepdims=True, dtype=working)
        for axis in left[: len(left) - len(fast)]:
            x = np.moveaxis(_tree(ufunc, np.moveaxis(x, axis, 0), working, exact), 0, axis)
        np.copyto(out, x, casting="unsafe")

    return reduce


def _working_dtype(node: Node) -> DType | None:
    if node.op.name not in ("sum", "prod"):
        return None  # the dtype of the operand; NumPy's bool for any and all
    return np.dtype("f4") if node.dtype == np.float16 else node.dtype


def _tree(ufunc: np.ufunc, x: Array, dtype: DType | None, exact: bool) -> Array:
    """Reduce the first axis: slabs of a sixteenth of the rows, then by halves.

    The calls run along whole slabs: 65,530 float32 in rows of 10 take 10 us, and 129 in one call.
    ``exact``: the order does not matter, and long rows need no slabs.
    """
    if exact and x[0].size >= LONG_ROW:
        return ufunc.reduce(x, axis=0, keepdims=True, dtype=dtype)
    rows = len(x)
    if rows >= 2 * SEQUENTIAL:
        slab = rows // SEQUENTIAL
        rest = _cast(x[SEQUENTIAL * slab :], dtype)
        x = x[: SEQUENTIAL * slab]
        x = ufunc.reduce(x.reshape(SEQUENTIAL, slab, *x.shape[1:]), axis=0, dtype=dtype)
        while len(rest):
            part, rest = rest[:slab], rest[slab:]
            ufunc(x[: len(part)], part, out=x[: len(part)], casting="unsafe")
    x = _cast(x, dtype)
    while len(x) > SEQUENTIAL:
        half = len(x) // 2
        odd, x = x[2 * half :], ufunc(x[:half], x[half : 2 * half], dtype=dtype)
        ufunc(x[: len(odd)], odd, out=x[: len(odd)], casting="unsafe")
    return ufunc.reduce(x, axis=0, keepdims=True, dtype=dtype)


def _cast(x: Array, dtype: DType | None) -> Array:
    """``x`` as NumPy adds it: it casts each element before."""
    return x if dtype is None else x.astype(dtype, copy=False)


def combine(node: Node, cells: Array, out: Array) -> None:
    """Put the partial results, along the first axis of ``cells``, together by halves, in place."""
    ufunc = ufunc_of(node)
    while len(cells) > 1:
        half = len(cells) // 2
        odd = cells[2 * half :]
        cells = ufunc(cells[:half], cells[half : 2 * half], out=cells[:half])
        if len(odd):
            ufunc(cells[: len(odd)], odd, out=cells[: len(odd)])
    out[...] = cells[0]
