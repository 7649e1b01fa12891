"""Views and joins: tensors in other shapes and orders, and several as one.

In: tensors and shapes. Out: tensors. Views move no bytes; ``concat`` and ``stack`` are one pass.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusegraph.elementwise import as_tensor
from fusegraph.graph import Shape, checked_shape, common_shape, make
from fusegraph.ops import OPS, promote
from fusegraph.sources import traced_line
from fusegraph.tensor import Tensor, shown, wrap
from fusegraph.views import apply_view, broadcasts


def axis_number(name: str, axis: Any, x: Tensor, added: int = 0) -> int:
    """``axis`` of ``x`` counted from the front, where ``x`` has ``added`` more axes than now.

    Raises
    ------
    numpy.exceptions.AxisError
        There is no such axis; the message names the op.
    TypeError
        ``axis`` is no integer.
    """
    ndim = x.ndim + added
    try:
        number = operator.index(axis)
    except TypeError:
        raise TypeError(f"{name}: axis {axis!r} is no integer; count axes from 0") from None
    if not -ndim <= number < ndim:
        remedy = (
            f"give one of {-ndim} to {ndim - 1}" if ndim else "it has none; add one with t[None]"
        )
        raise np.exceptions.AxisError(
            f"{name}: axis {number} is out of range for {shown(x)}; {remedy}"
        )
    return number % ndim


def axis_numbers(name: str, axis: Any, x: Tensor, added: int = 0) -> tuple[int, ...]:
    """One axis or several, counted from the front, each once."""
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(axis_number(name, a, x, added) for a in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"{name}: an axis stands twice in {axis!r} for {shown(x)}; name each once")
    return found


def with_axes(x: Any) -> Tensor:
    """``x``; one number as an axis of one, as some of NumPy's functions take it."""
    t = as_tensor(x)
    return t if t.ndim else reshape(t, -1)


def one_axis(name: str, x: Tensor, axis: Any) -> tuple[Tensor, int]:
    """``x`` and its ``axis`` counted from the front; None: all elements, on one axis."""
    return (reshape(x, -1), 0) if axis is None else (x, axis_number(name, axis, x))


def as_shape(name: str, shape: Any) -> Shape:
    """One size, or several, as a shape.

    Raises
    ------
    TypeError
        A size is no integer; the message names the function.
    ValueError
        No array has so many axes or elements.
    """
    several = isinstance(shape, (tuple, list)) or (isinstance(shape, np.ndarray) and shape.ndim)
    try:
        sizes = tuple(operator.index(n) for n in (shape if several else (shape,)))
        checked_shape(tuple(map(abs, sizes)))  # what -1 means, the caller knows
    except TypeError:
        raise TypeError(
            f"{name}: shape {shape!r} is no shape; give integers, as in 6 or (2, 3)"
        ) from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return sizes


# --- views ----------------------------------------------------------------------------------------


def reshape(x: Any, *sizes: Any, shape: Any = None, order: str = "C", copy: Any = None) -> Tensor:
    """``x`` in another shape, in row-major order; one size may be -1.

    The shape is given by position, as a tuple or size by size, or by name.

    Raises
    ------
    ValueError
        The sizes do not multiply to those of ``x``.
    """
    x = as_tensor(x)
    if (shape is None) != bool(sizes):
        raise TypeError("reshape: give the shape once, as in reshape(x, (2, 3))")
    parts = sizes[0] if len(sizes) == 1 else sizes
    wanted = given = as_shape("reshape", parts if shape is None else shape)
    if order != "C":
        raise ValueError(f"reshape: order={order!r} is not supported; transpose first")
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if any(n < 0 for n in wanted) or math.prod(wanted) != x.size:
        raise ValueError(
            f"reshape: {shown(x)} does not fill {list(given)}; sizes must multiply to {x.size}, and "
            "one of them may be -1"
        )
    return wrap(apply_view("reshape", wanted, x.node))


def ravel(x: Any, order: str = "C") -> Tensor:
    """``x`` as one axis, in row-major order; the method ``flatten`` copies besides."""
    return reshape(x, -1, order=order)


def permute_dims(x: Any, axes: Any) -> Tensor:
    """``x`` with its axes in another order."""
    x = as_tensor(x)
    order = axis_numbers("permute_dims", tuple(axes), x)
    if len(order) != x.ndim:
        raise ValueError(
            f"permute_dims: {list(axes)} does not name every axis of {shown(x)}; name each once"
        )
    return wrap(apply_view("permute", order, x.node))


def transpose(x: Any, *order: Any, axes: Any = None) -> Tensor:
    """``x`` with its axes reversed, or in the order of ``axes`` (by position or by name)."""
    x = as_tensor(x)
    if order:
        axes = order[0] if len(order) == 1 and not isinstance(order[0], int) else order
    return permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None or axes == () else axes)


def matrix_transpose(x: Any) -> Tensor:
    """``x`` with its last two axes exchanged."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(
            f"matrix_transpose: needs two axes, got {shown(x)}; add axes with t[:, None]"
        )
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """``x`` with two axes exchanged."""
    x = as_tensor(x)
    order = list(range(x.ndim))
    a, b = axis_number("swapaxes", axis1, x), axis_number("swapaxes", axis2, x)
    order[a], order[b] = order[b], order[a]
    return permute_dims(x, order)


def moveaxis(x: Any, source: Any, destination: Any) -> Tensor:
    """``x`` with axes moved to other positions."""
    x = as_tensor(x)
    start = axis_numbers("moveaxis", source, x)
    end = axis_numbers("moveaxis", destination, x)
    if len(start) != len(end):
        raise ValueError(f"moveaxis: {source!r} and {destination!r} differ in length")
    order = [a for a in range(x.ndim) if a not in start]
    for position, axis in sorted(zip(end, start, strict=True)):
        order.insert(position, axis)
    return permute_dims(x, order)


def expand_dims(x: Any, axis: Any) -> Tensor:
    """``x`` with axes of size 1 inserted."""
    x = as_tensor(x)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    axes = axis_numbers("expand_dims", axis, x, count)
    return wrap(apply_view("expand", tuple(sorted(axes)), x.node))


def squeeze(x: Any, axis: Any = None) -> Tensor:
    """``x`` without axes of size 1: those named, or all.

    Raises
    ------
    ValueError
        A named axis has another size.
    """
    x = as_tensor(x)
    if not x.ndim and axis in (0, -1):  # NumPy lets it pass
        axis = ()
    if axis is None:
        axis = tuple(a for a, n in enumerate(x.shape) if n == 1)
    axes = axis_numbers("squeeze", axis, x)
    for a in axes:
        if x.node.shape[a] != 1:
            raise ValueError(
                f"squeeze: axis {a} of {shown(x)} has size {x.node.shape[a]}, not 1; take one entry of "
                "it with an index, or leave the axis out"
            )
    return wrap(apply_view("squeeze", tuple(sorted(axes)), x.node))


def broadcast_to(x: Any, shape: Any) -> Tensor:
    """``x`` repeated along axes of size 1, without storing it again.

    Raises
    ------
    ValueError
        ``x`` does not broadcast to ``shape``.
    """
    return broadcast_for("broadcast_to", as_tensor(x), as_shape("broadcast_to", shape))


def broadcast_for(name: str, x: Tensor, wanted: Shape) -> Tensor:
    """``x`` broadcast to the shape ``wanted``; errors name the function."""
    if not broadcasts(x.shape, wanted):
        raise ValueError(
            f"{name}: {shown(x)} does not broadcast to {list(wanted)}; sizes must be equal or 1, "
            "counted from the last axis (insert axes with t[:, None])"
        )
    return wrap(apply_view("broadcast", wanted, x.node))


def broadcast_arrays(*arrays: Any) -> tuple[Tensor, ...]:
    """Views of tensors in the shape that all broadcast to.

    Raises
    ------
    ValueError
        Their shapes do not broadcast.
    """
    tensors = [as_tensor(a) for a in arrays]
    try:
        wanted = common_shape(*(t.node.shape for t in tensors)) if tensors else ()
    except ValueError as error:
        raise ValueError(
            f"broadcast_arrays: shapes of {_listed(tensors)} do not broadcast: {error}; insert axes "
            "with t[:, None]"
        ) from None
    return tuple(wrap(apply_view("broadcast", wanted, t.node)) for t in tensors)


def flip(x: Any, axis: Any = None) -> Tensor:
    """``x`` in reverse along axes; None: along all."""
    t = as_tensor(x)
    axes = tuple(range(t.ndim)) if axis is None else axis_numbers("flip", axis, t)
    return t[tuple(slice(None, None, -1) if a in axes else slice(None) for a in range(t.ndim))]


def unstack(x: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """The parts of ``x`` along an axis, without it: what :func:`stack` joins."""
    t = as_tensor(x)
    at = axis_number("unstack", axis, t)
    first = (slice(None),) * at
    return tuple(t[(*first, k)] for k in range(t.shape[at]))


# --- joins ----------------------------------------------------------------------------------------


def concat(arrays: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Tensors one after another along an axis; ``axis=None`` flattens them first.

    Raises
    ------
    ValueError
        There are none, or their shapes differ beside ``axis``.
    """
    tensors = [as_tensor(a) for a in arrays]
    if not tensors:
        raise ValueError("concat: needs at least one array")
    if axis is None:
        tensors, axis = [reshape(t, -1) for t in tensors], 0
    first = tensors[0]
    at = axis_number("concat", axis, first)
    rest = {t.shape[:at] + t.shape[at + 1 :] for t in tensors}
    if len(rest) > 1 or len({t.ndim for t in tensors}) > 1:
        raise ValueError(
            f"concat: shapes of {_listed(tensors)} differ beside axis {at}; slice, reshape or "
            "broadcast_to them first"
        )
    shape = (*first.shape[:at], sum(t.shape[at] for t in tensors), *first.shape[at + 1 :])
    dtype = promote(tuple(t.dtype for t in tensors))
    nodes = tuple(t.node for t in tensors)
    return wrap(make(OPS["concat"], nodes, (("axis", at),), shape, dtype, traced_line()))


def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis."""
    tensors = [as_tensor(a) for a in arrays]
    if not tensors:
        raise ValueError("stack: needs at least one array")
    if len({t.shape for t in tensors}) > 1:
        raise ValueError(
            f"stack: shapes of {_listed(tensors)} differ; slice, reshape or broadcast_to them first"
        )
    at = axis_number("stack", axis, tensors[0], 1)
    return concat([expand_dims(t, at) for t in tensors], at)


def _listed(tensors: Sequence[Tensor]) -> str:
    return ", ".join(shown(t) for t in tensors)
