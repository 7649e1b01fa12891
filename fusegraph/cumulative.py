"""Cumulative sums and products, and what undoes a sum: differences of neighbours.

In: a tensor. Out: a tensor. Each element together with all before it is one call of NumPy; a difference
of neighbours is two views and a subtraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusegraph.arrays import checked_dtype
from fusegraph.elementwise import as_integer, as_tensor
from fusegraph.graph import make
from fusegraph.operations import elementwise
from fusegraph.ops import OPS
from fusegraph.reductions import reduced_dtype
from fusegraph.shaping import axis_number, broadcast_to, concat, reshape, with_axes
from fusegraph.sources import traced_line
from fusegraph.tensor import Tensor, shown, wrap


def cumulative_sum(
    x: Any, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Sums of the first elements along an axis; small integers add up as :func:`sum` does.

    ``include_initial`` puts the sum of none, 0, before them.

    Raises
    ------
    ValueError
        ``axis`` is left out, and there is not one.
    """
    return _cumulative("cumulative_sum", "sum", x, axis, dtype, include_initial)


def cumulative_prod(
    x: Any, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Products of the first elements along an axis; see :func:`cumulative_sum`."""
    return _cumulative("cumulative_prod", "prod", x, axis, dtype, include_initial)


def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """NumPy's name, which takes ``axis=None`` for all elements."""
    flat, at = _flattened(x, axis)
    return cumulative_sum(flat, at, dtype)


def cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """NumPy's name, which takes ``axis=None`` for all elements."""
    flat, at = _flattened(x, axis)
    return cumulative_prod(flat, at, dtype)


def _flattened(x: Any, axis: int | None) -> tuple[Tensor, int]:
    t = as_tensor(x)
    return (reshape(t, -1), 0) if axis is None else (t, axis)


def _cumulative(
    name: str, reduction: str, x: Any, axis: int | None, dtype: Any, include_initial: bool
) -> Tensor:
    x = with_axes(x)
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"{name}: axis is left out, and {shown(x)} has not one; give an axis")
        axis = 0
    at, shape = axis_number(name, axis, x), list(x.node.shape)
    shape[at] += bool(include_initial)
    params: tuple[tuple[str, Any], ...] = (("axis", at), ("include_initial", bool(include_initial)))
    if dtype is None:  # as the reduction of all of them has it
        result = reduced_dtype(reduction, x.dtype, None)
    else:
        result = checked_dtype(dtype)
        params = (*params, ("dtype", result))  # a plan is found by the parameters
    return wrap(make(OPS[name], (x.node,), params, tuple(shape), result, traced_line()))


def diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """Differences of neighbours along an axis, ``n`` times over; of bools, where they differ.

    Two views and a subtraction, so it fuses with what reads it.
    """
    x = as_tensor(x)
    at = axis_number("diff", axis, x)
    times = as_integer("diff", "n", n)
    if times < 0:
        raise ValueError(f"diff: n={n} is negative; give 0 or more")
    # Where nothing is subtracted NumPy puts nothing beside ``x`` either.
    beside = [_beside(x, at, end) if times else None for end in (prepend, append)]
    parts: Sequence[Any] = [p for p in (beside[0], x, beside[1]) if p is not None]
    found: Tensor = concat(parts, at) if len(parts) > 1 else x
    row = OPS["not_equal" if found.dtype.kind == "b" else "subtract"]
    before = (slice(None),) * at
    for _ in range(times):
        later, earlier = found[(*before, slice(1, None))], found[(*before, slice(None, -1))]
        found = elementwise(row, later, earlier)
    return found


def _beside(x: Tensor, axis: int, end: Any) -> Tensor | None:
    """What stands before or behind ``x``: one number becomes an entry."""
    if end is None:
        return None
    t = as_tensor(end)
    shape = x.node.shape
    return t if t.ndim else broadcast_to(t, (*shape[:axis], 1, *shape[axis + 1 :]))
