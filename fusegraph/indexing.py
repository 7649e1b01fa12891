"""Basic indexing: a key as the views it stands for.

In: a key of ints, slices, ``...`` and ``None``, and a shape. Out: parameters of an ``expand`` and a
``slice`` view, or an error that names the key.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from fusegraph.graph import Shape


def _whole(key: Any) -> Any:
    """An index, or what stands for one: an array of one integer and no axes."""
    if getattr(key, "shape", None) == () and key.dtype.kind in "iu":
        return operator.index(key)
    return key


def index_params(key: Any, shape: Shape) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Parameters of the ``expand`` and the ``slice`` view that basic indexing stands for.

    Raises
    ------
    TypeError
        The key is not made of ints, slices, ``...`` and ``None``.
    IndexError
        Too many indices, or one out of range.
    """
    keys = [_whole(k) for k in (key if isinstance(key, tuple) else (key,))]
    for k in keys:
        if not (
            k is None or k is Ellipsis or isinstance(k, (int, np.integer, slice))
        ) or isinstance(k, bool):
            raise TypeError(
                f"index of type {type(k).__name__} has no lazy form; give ints, slices, ..., None, "
                "and arrays of ints or truth values"
            )
    taken = sum(k is not None and k is not Ellipsis for k in keys)
    if taken > len(shape) or sum(k is Ellipsis for k in keys) > 1:
        raise IndexError(
            f"index {key!r} has more axes than shape {list(shape)}; give at most {len(shape)}, one ..."
        )
    missing = [slice(None)] * (len(shape) - taken)
    at = next((n for n, k in enumerate(keys) if k is Ellipsis), None)
    keys = [*keys, *missing] if at is None else [*keys[:at], *missing, *keys[at + 1 :]]
    kept: list[Any] = []
    expanded: list[int] = []
    position = 0
    for k in keys:
        if k is None:
            expanded.append(position)
            position += 1
            continue
        size = shape[len(kept)]
        if isinstance(k, slice):
            kept.append(_slice_key(k, size))
            position += 1
        else:
            if not -size <= k < size:
                raise IndexError(
                    f"index {k} is out of range for axis {len(kept)} of {list(shape)}; it goes from "
                    f"{-size} to {size - 1}"
                )
            kept.append(int(k) % size)
    return tuple(expanded), tuple(kept)


def _slice_key(key: slice, size: int) -> tuple[int, int | None, int]:
    start, stop, step = key.indices(size)
    count = len(range(start, stop, step))
    if not count:
        return (0, 0, 1)
    last = start + (count - 1) * step + (1 if step > 0 else -1)
    return (start, None if last < 0 else last, step)


def is_mask(key: Any, shape: Shape) -> bool:
    """Is ``key`` an array of truth values, one for each element?"""
    dtype = getattr(key, "dtype", None)
    return dtype == np.dtype(bool) and getattr(key, "shape", None) == shape
