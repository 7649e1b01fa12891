"""New tensors: filled, evenly spaced, and the unit matrix.

In: shapes and numbers. Out: tensors. ``zeros``, ``ones``, ``full`` and ``eye`` store nothing until a
kernel needs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusegraph.arrays import checked_device, checked_dtype
from fusegraph.elementwise import as_integer, as_tensor
from fusegraph.graph import Array, DType, Shape, const
from fusegraph.operations import cast
from fusegraph.ops import DTYPES, OPS
from fusegraph.shaping import as_shape, broadcast_for
from fusegraph.tensor import Tensor, wrap
from fusegraph.views import apply_view


def full(shape: Any, fill_value: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``fill_value`` everywhere; a constant seen through a view, so kernels read no bytes for it.

    Raises
    ------
    TypeError
        ``shape`` is no shape, or ``fill_value`` has a dtype that a Tensor cannot have.
    ValueError
        A size is negative, or ``fill_value`` does not broadcast to ``shape``.
    OverflowError
        A Python integer does not fit ``dtype``.
    """
    checked_device(device)
    return _filled("full", shape, fill_value, dtype)


def _filled(name: str, shape: Any, fill_value: Any, dtype: Any) -> Tensor:
    sizes = _sizes(name, shape)
    wanted = None if dtype is None else checked_dtype(dtype)
    if isinstance(fill_value, (Tensor, list, tuple)) or np.ndim(fill_value):
        rows = as_tensor(fill_value)
        return broadcast_for(name, rows if wanted is None else cast(rows, wanted), sizes)
    value = _fill_value(name, fill_value, wanted)
    return wrap(apply_view("broadcast", sizes, const(value, value.dtype)))


def _fill_value(name: str, fill_value: Any, wanted: DType | None) -> Array:
    """A 0-d array of the dtype wanted, or of the value's own."""
    if wanted is not None and wanted.kind in "iu" and isinstance(fill_value, int):
        try:
            return np.asarray(fill_value, wanted)
        except OverflowError:
            info = np.iinfo(wanted)
            raise OverflowError(
                f"{name}: {fill_value} does not fit {wanted}, which holds {info.min} to {info.max}; "
                "give another dtype"
            ) from None
    value = np.asarray(fill_value)
    if wanted is not None and isinstance(fill_value, int):
        return value.astype(wanted)
    if value.dtype.newbyteorder("=") not in DTYPES:
        raise TypeError(
            f"{name}: fill_value {fill_value!r} is of dtype {value.dtype}, which no Tensor has; give a "
            f"value of one of {', '.join(map(str, DTYPES))}"
        )
    result = np.empty((), value.dtype.newbyteorder("=") if wanted is None else wanted)
    OPS["astype"].function(value, result)  # silent about what a cast loses, as casts of tensors are
    return result


def _sizes(name: str, shape: Any) -> Shape:
    sizes = as_shape(name, shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"{name}: a size in {list(sizes)} is negative; sizes are 0 or more")
    return sizes


def _or_float(dtype: Any) -> Any:
    return np.float64 if dtype is None else dtype


def zeros(shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros."""
    checked_device(device)
    return _filled("zeros", shape, 0, _or_float(dtype))


def ones(shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones."""
    checked_device(device)
    return _filled("ones", shape, 1, _or_float(dtype))


def empty(shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros: a tensor is never written, so there is nothing to leave open."""
    checked_device(device)
    return _filled("empty", shape, 0, _or_float(dtype))


def full_like(x: Any, fill_value: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``fill_value`` in the shape and dtype of ``x``."""
    checked_device(device)
    x = as_tensor(x)
    return _filled("full_like", x.shape, fill_value, x.dtype if dtype is None else dtype)


def zeros_like(x: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros in the shape and dtype of ``x``."""
    checked_device(device)
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones in the shape and dtype of ``x``."""
    checked_device(device)
    return full_like(x, 1, dtype)


def empty_like(x: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros in the shape and dtype of ``x``, see :func:`empty`."""
    checked_device(device)
    return full_like(x, 0, dtype)


def arange(
    start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, device: Any = None
) -> Tensor:
    """Evenly spaced values with NumPy's dtype; stored at once, being one axis.

    Raises
    ------
    TypeError
        ``start``, ``stop`` or ``step`` is no number.
    ValueError
        ``step`` is 0, or there would be too many values.
    """
    checked_device(device)
    first, last = (0, start) if stop is None else (start, stop)
    _check_numbers("arange", start=first, stop=last, step=step)
    if step == 0:
        raise ValueError(f"arange: step={step!r} never reaches the end; give another step")
    wanted = None if dtype is None else checked_dtype(dtype)
    try:
        return Tensor(np.arange(first, last, step, dtype=wanted))
    except (ValueError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"arange: {first!r} to {last!r} by {step!r} is no array ({error}); give other bounds"
        ) from error


def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """``num`` evenly spaced values from ``start`` to ``stop``; stored at once, being one axis."""
    checked_device(device)
    _check_numbers("linspace", start=start, stop=stop)
    (count,) = _sizes("linspace", (num,))
    wanted = None if dtype is None else checked_dtype(dtype)
    return Tensor(np.linspace(start, stop, count, endpoint=endpoint, dtype=wanted))


def _check_numbers(name: str, **given: Any) -> None:
    """Their values are needed at once: a tensor among them would be computed while building."""
    for parameter, value in given.items():
        if isinstance(value, Tensor) or np.asarray(value).dtype.kind not in "biufc":
            raise TypeError(
                f"{name}: {parameter} is of type {type(value).__name__}; give a number (float(t) "
                "computes a Tensor)"
            )


def eye(
    n_rows: int, n_cols: int | None = None, k: int = 0, dtype: Any = None, device: Any = None
) -> Tensor:
    """Ones on the ``k``-th diagonal: a comparison of two axes, so it fuses with what reads it."""
    checked_device(device)
    rows, columns = _sizes("eye", (n_rows, n_rows if n_cols is None else n_cols))
    diagonal = max(-rows, min(as_integer("eye", "k", k), columns))  # beyond them all is zero
    on_diagonal: Any = arange(rows)[:, None] + diagonal == arange(columns)[None, :]
    return cast(on_diagonal, _or_float(dtype))
