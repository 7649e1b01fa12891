"""Tensors arranged anew: repeated, rolled, tiled, gridded, and their triangles.

In: tensors. Out: tensors, from views, joins and one comparison: triangles fuse with what reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusegraph.creation import arange
from fusegraph.elementwise import as_integer, as_tensor, copied, where
from fusegraph.gathering import take_along
from fusegraph.shaping import (
    as_shape,
    axis_number,
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    one_axis,
    reshape,
    with_axes,
)
from fusegraph.tensor import Tensor, as_node, shown


def roll(x: Any, shift: Any, axis: Any = None) -> Tensor:
    """``x`` moved along axes, what leaves at the end coming back at the start (None: of all elements).

    Raises
    ------
    ValueError
        Shifts and axes differ in number.
    """
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(reshape(x, -1), sum(_shifts(shift)), 0), x.node.shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    shifts = _shifts(shift)
    shifts = shifts * len(axes) if len(shifts) == 1 else shifts
    axes = axes * len(shifts) if len(axes) == 1 else axes
    if len(shifts) != len(axes):
        raise ValueError(f"roll: shift {shift!r} and axis {axis!r} differ in length; give as many")
    rolled: Tensor = x
    for by, one in zip(shifts, axes, strict=True):
        rolled = _rolled(rolled, by, axis_number("roll", one, x))
    return copied(x) if rolled is x else rolled


def _shifts(shift: Any) -> tuple[int, ...]:
    several = shift if np.ndim(shift) else (shift,)
    return tuple(as_integer("roll", "shift", by) for by in several)


def _rolled(x: Tensor, by: int, axis: int) -> Tensor:
    size = x.shape[axis]  # read: what rolls by nothing does so for this size alone
    start = -by % size if size else 0
    if not start:
        return x
    before = (slice(None),) * axis
    return concat([x[(*before, slice(start, None))], x[(*before, slice(None, start))]], axis)


def tile(x: Any, repetitions: Any) -> Tensor:
    """``x`` side by side, so many times along each axis, counted from the last."""
    x, times = as_tensor(x), as_shape("tile", repetitions)
    if any(n < 0 for n in times):
        raise ValueError(f"tile: repetitions {list(times)} are negative; give 0 or more")
    rank = max(len(times), x.ndim)
    times = (1,) * (rank - len(times)) + times
    sizes = (1,) * (rank - x.ndim) + x.node.shape
    shape = tuple(n * times[a] for a, n in enumerate(sizes))
    if set(times) <= {1}:
        return copied(reshape(x, shape))
    # Each axis behind one of repetitions; a broadcast stores nothing until the shape is joined.
    apart = reshape(x, tuple(n for size in sizes for n in (1, size)))
    pairs = tuple(n for pair in zip(times, sizes, strict=True) for n in pair)
    return reshape(broadcast_to(apart, pairs), shape)


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Each entry along an axis so many times, one after the other (None: of all elements).

    ``repeats`` is one number, or one for each entry, which are computed: the shape depends on them.

    Raises
    ------
    ValueError
        A number is negative, or there are not as many as entries.
    TypeError
        They are no integers.
    """
    x, at = one_axis("repeat", with_axes(x), axis)
    counts = np.asarray(repeats)
    if counts.dtype.kind not in "biu" and counts.size:  # of an empty list NumPy makes floats
        raise TypeError(f"repeat: repeats are {counts.dtype}; give integers")
    if counts.size and counts.min() < 0:
        raise ValueError("repeat: repeats are negative; give 0 or more")
    size = x.node.shape[at]
    if counts.size != 1 or counts.ndim > 1:
        if counts.shape != (size,):
            raise ValueError(
                f"repeat: {list(counts.shape)} repeats for {size} entries along axis {at} of "
                f"{shown(x)}; give one number, or one for each"
            )
        return take_along("take", x, as_node(np.arange(size).repeat(counts.astype(np.intp))), at)
    times, shape = int(counts.reshape(())), x.node.shape
    if times == 1:
        return copied(x)
    wide = broadcast_to(expand_dims(x, at + 1), (*shape[: at + 1], times, *shape[at + 1 :]))
    return reshape(wide, (*shape[:at], size * times, *shape[at + 1 :]))


def meshgrid(
    *arrays: Any, indexing: str = "xy", sparse: bool = False, copy: bool = True
) -> tuple[Tensor, ...]:
    """Coordinates of a grid, from those along each axis; views, which store nothing.

    Parameters
    ----------
    *arrays : array_like
        Of at most one axis each.
    indexing : {"xy", "ij"}
        ``xy`` exchanges the first two axes, as for a picture.
    sparse : bool
        Leave the other axes of each at one element.
    copy : bool
        NumPy's; it has no effect.
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing={indexing!r}: choose 'xy' or 'ij'")
    lines = [as_tensor(a) for a in arrays]
    for line in lines:
        if line.ndim > 1:
            raise ValueError(f"meshgrid: {shown(line)} has several axes; give one axis each")
    order = list(range(len(lines)))
    if indexing == "xy" and len(lines) > 1:
        order[:2] = [1, 0]
    standing = [
        reshape(line, tuple(-1 if place == at else 1 for at in range(len(lines))))
        for line, place in zip(lines, order, strict=True)
    ]
    return tuple(standing) if sparse else broadcast_arrays(*standing)


def tril(x: Any, k: int = 0) -> Tensor:
    """``x`` with zeros above the ``k``-th diagonal of its last two axes."""
    return _triangle("tril", x, k)


def triu(x: Any, k: int = 0) -> Tensor:
    """``x`` with zeros below the ``k``-th diagonal of its last two axes."""
    return _triangle("triu", x, k)


def _triangle(name: str, x: Any, k: int) -> Tensor:
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"{name}: needs two axes, got {shown(x)}; add one with t[:, None]")
    rows, columns = x.shape[-2:]  # read: the places of the diagonal are for this size alone
    diagonal = max(-rows, min(as_integer(name, "k", k), columns))
    # One comparison of the narrowest integers: 1570 x 100 float32 took 235 us where a difference of 64
    # bits came before it, 185 without that, and take 130; 50 where they are compiled.
    narrow = np.min_scalar_type(-rows - columns - 1)
    last = arange(diagonal, rows + diagonal, dtype=narrow)[:, None]  # that is kept, row by row
    column = arange(columns, dtype=narrow)[None, :]
    kept: Any = column <= last if name == "tril" else column >= last
    return where(kept, x, x.dtype.type(0))
