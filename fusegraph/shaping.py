"""Views, joins and new tensors.

In: tensors and shapes. Out: tensors. Views move no bytes; ``concat`` and ``stack`` are one pass.
``zeros``, ``ones``, ``full`` and ``eye`` store nothing until a kernel needs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusegraph.elementwise import as_tensor
from fusegraph.graph import DType, Shape, const, make
from fusegraph.ops import OPS, promote
from fusegraph.tensor import Tensor, cast, checked_dtype, traced_line, wrap
from fusegraph.views import apply_view


def axis_number(name: str, axis: Any, ndim: int) -> int:
    """``axis`` counted from the front.

    Raises
    ------
    numpy.exceptions.AxisError
        There is no such axis; the message names the op.
    TypeError
        ``axis`` is no integer.
    """
    try:
        number = axis.__index__()
    except AttributeError:
        raise TypeError(f"{name}: axis {axis!r} is no integer") from None
    if not -ndim <= number < ndim:
        raise np.exceptions.AxisError(
            f"{name}: axis {number} is out of range for {ndim} dimension{'s' * (ndim != 1)}; "
            f"give one of {-ndim} to {ndim - 1}"
        )
    return int(number) % ndim


def axis_numbers(name: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """One axis or several, counted from the front, each once."""
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(axis_number(name, a, ndim) for a in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"{name}: an axis stands twice in {axis!r}")
    return found


def as_shape(shape: Any) -> Shape:
    """One size, or several, as a shape."""
    return tuple(int(n) for n in shape) if isinstance(shape, (tuple, list)) else (int(shape),)


# --- views ----------------------------------------------------------------------------------------


def reshape(x: Any, *shape: Any, order: str = "C", copy: Any = None) -> Tensor:
    """``x`` in another shape, in row-major order; one size may be -1.

    Raises
    ------
    ValueError
        The sizes do not multiply to those of ``x``.
    """
    x = as_tensor(x)
    wanted = as_shape(shape[0] if len(shape) == 1 else shape)
    if order != "C":
        raise ValueError(f"reshape: order={order!r} is not supported; transpose first")
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if any(n < 0 for n in wanted) or math.prod(wanted) != x.size:
        raise ValueError(f"reshape: {list(x.shape)} has {x.size} elements, {list(wanted)} has not")
    return wrap(apply_view("reshape", wanted, x.node))


def ravel(x: Any) -> Tensor:
    """``x`` as one axis."""
    return reshape(x, -1)


def permute_dims(x: Any, axes: Any) -> Tensor:
    """``x`` with its axes in another order."""
    x = as_tensor(x)
    order = axis_numbers("permute_dims", tuple(axes), x.ndim)
    if len(order) != x.ndim:
        raise ValueError(f"permute_dims: {list(axes)} does not name every axis of {list(x.shape)}")
    return wrap(apply_view("permute", order, x.node))


def transpose(x: Any, *axes: Any) -> Tensor:
    """``x`` with its axes reversed, or in the order of ``axes``."""
    x = as_tensor(x)
    given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
    return permute_dims(x, given or tuple(range(x.ndim))[::-1])


def matrix_transpose(x: Any) -> Tensor:
    """``x`` with its last two axes exchanged."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: needs two axes, got {x.dtype}{list(x.shape)}")
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """``x`` with two axes exchanged."""
    x = as_tensor(x)
    order = list(range(x.ndim))
    a, b = axis_number("swapaxes", axis1, x.ndim), axis_number("swapaxes", axis2, x.ndim)
    order[a], order[b] = order[b], order[a]
    return permute_dims(x, order)


def moveaxis(x: Any, source: Any, destination: Any) -> Tensor:
    """``x`` with axes moved to other positions."""
    x = as_tensor(x)
    start = axis_numbers("moveaxis", source, x.ndim)
    end = axis_numbers("moveaxis", destination, x.ndim)
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
    axes = axis_numbers("expand_dims", axis, x.ndim + count)
    return wrap(apply_view("expand", tuple(sorted(axes)), x.node))


def squeeze(x: Any, axis: Any = None) -> Tensor:
    """``x`` without axes of size 1: those named, or all.

    Raises
    ------
    ValueError
        A named axis has another size.
    """
    x = as_tensor(x)
    if axis is None:
        axis = tuple(a for a, n in enumerate(x.shape) if n == 1)
    axes = axis_numbers("squeeze", axis, x.ndim)
    for a in axes:
        if x.shape[a] != 1:
            raise ValueError(f"squeeze: axis {a} of {list(x.shape)} has size {x.shape[a]}, not 1")
    return wrap(apply_view("squeeze", tuple(sorted(axes)), x.node))


def broadcast_to(x: Any, shape: Any) -> Tensor:
    """``x`` repeated along axes of size 1, without storing it again.

    Raises
    ------
    ValueError
        ``x`` does not broadcast to ``shape``.
    """
    x = as_tensor(x)
    wanted = as_shape(shape)
    try:
        fits = np.broadcast_shapes(x.shape, wanted) == wanted
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"broadcast_to: {list(x.shape)} does not broadcast to {list(wanted)}")
    return wrap(apply_view("broadcast", wanted, x.node))


def flip(x: Any, axis: Any = None) -> Tensor:
    """``x`` in reverse along axes; None: along all."""
    t = as_tensor(x)
    axes = tuple(range(t.ndim)) if axis is None else axis_numbers("flip", axis, t.ndim)
    return t[tuple(slice(None, None, -1) if a in axes else slice(None) for a in range(t.ndim))]


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
    at = axis_number("concat", axis, first.ndim)
    rest = {t.shape[:at] + t.shape[at + 1 :] for t in tensors}
    if len(rest) > 1 or len({t.ndim for t in tensors}) > 1:
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise ValueError(f"concat: shapes {shapes} differ beside axis {at}")
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
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise ValueError(f"stack: shapes {shapes} differ")
    return concat([expand_dims(t, axis) for t in tensors], axis)


# --- new tensors ----------------------------------------------------------------------------------


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """``fill_value`` everywhere; a constant seen through a view, so kernels read no bytes for it."""
    value = np.asarray(fill_value)
    wanted: DType = value.dtype if dtype is None else checked_dtype(dtype)
    sizes = as_shape(shape)
    if value.ndim:
        return broadcast_to(cast(as_tensor(fill_value), wanted), sizes)
    if any(n < 0 for n in sizes):
        raise ValueError(f"full: a size in {list(sizes)} is negative")
    if wanted.kind in "iu" and isinstance(fill_value, int):
        value = np.asarray(fill_value, wanted)
    return wrap(apply_view("broadcast", sizes, const(value.astype(wanted), wanted)))


def zeros(shape: Any, dtype: Any = float) -> Tensor:
    """Zeros."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float) -> Tensor:
    """Ones."""
    return full(shape, 1, dtype)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """``fill_value`` in the shape and dtype of ``x``."""
    x = as_tensor(x)
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype)


def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros in the shape and dtype of ``x``."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Ones in the shape and dtype of ``x``."""
    return full_like(x, 1, dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """Evenly spaced values with NumPy's dtype; stored at once, being one axis."""
    first, last = (0, start) if stop is None else (start, stop)
    return Tensor(np.arange(first, last, step, dtype=dtype))


def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None
) -> Tensor:
    """``num`` evenly spaced values from ``start`` to ``stop``; stored at once, being one axis."""
    return Tensor(np.linspace(start, stop, num, endpoint=endpoint, dtype=dtype))


def eye(n_rows: int, n_cols: int | None = None, k: int = 0, dtype: Any = float) -> Tensor:
    """Ones on the ``k``-th diagonal: a comparison of two axes, so it fuses with what reads it."""
    columns = n_rows if n_cols is None else n_cols
    on_diagonal: Any = arange(n_rows)[:, None] + k == arange(columns)[None, :]
    return cast(on_diagonal, dtype)
