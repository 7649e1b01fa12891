"""Sorting, searching and distinct values.

In: tensors. Out: tensors. How many distinct or non-zero values there are depends on the values: those
functions compute them when they are called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fusegraph.elementwise import as_tensor
from fusegraph.gathering import as_places, check_places, take_along
from fusegraph.graph import common_shape, make
from fusegraph.operations import cast, elementwise
from fusegraph.ops import OPS, promote
from fusegraph.reductions import sum as total
from fusegraph.shaping import one_axis, with_axes
from fusegraph.sources import traced_line
from fusegraph.tensor import Tensor, shown, wrap
from fusegraph.views import apply_view

SIDES = ("left", "right")
KINDS = ("quicksort", "mergesort", "heapsort", "stable")


# --- sorting --------------------------------------------------------------------------------------


def sort(
    x: Any,
    axis: int | None = -1,
    kind: str | None = None,
    *,
    descending: bool = False,
    stable: bool | None = True,
) -> Tensor:
    """Values in order along an axis (None: of all); NaN last, or first where they descend.

    Of equal values that can be told apart, as 0.0 and -0.0, the first stays the first, unless ``stable``
    is false or None, or NumPy's ``kind``, which goes before it, names another sort.
    """
    return _ordered("sort", x, axis, kind, descending, stable)


def argsort(
    x: Any,
    axis: int | None = -1,
    kind: str | None = None,
    *,
    descending: bool = False,
    stable: bool | None = True,
) -> Tensor:
    """Places of values in order along an axis (None: of all); of equals the first stands first.

    See :func:`sort`. ``stable=False`` is NumPy's default: of 157,000 float32 it takes half the time.
    """
    return _ordered("argsort", with_axes(x), axis, kind, descending, stable)


def _ordered(
    name: str, x: Any, axis: int | None, kind: str | None, descending: bool, stable: bool | None
) -> Tensor:
    if kind is None:
        kind = "stable" if stable else "quicksort"
    if kind not in KINDS:
        raise ValueError(f"{name}: kind={kind!r}: choose one of {', '.join(KINDS)}")
    x, at = one_axis(name, as_tensor(x), axis)
    dtype = np.dtype(np.intp) if name == "argsort" else x.dtype
    params = (("axis", at), ("descending", bool(descending)), ("kind", kind))
    return wrap(make(OPS[name], (x.node,), params, x.node.shape, dtype, traced_line()))


def searchsorted(x1: Any, x2: Any, side: str = "left", sorter: Any = None) -> Tensor:
    """Places at which values of ``x2`` keep the sorted ``x1`` sorted.

    Parameters
    ----------
    x1 : array_like
        One axis, in ascending order; ``sorter`` are the places that bring it there.
    x2 : array_like
    side : {"left", "right"}
        Before or behind what is equal.
    """
    sorted_, values = as_tensor(x1), as_tensor(x2)
    if sorted_.ndim != 1:
        raise ValueError(f"searchsorted: x1 is {shown(sorted_)}; give one axis, in ascending order")
    if side not in SIDES:
        raise ValueError(f"searchsorted: side={side!r}: choose one of {', '.join(SIDES)}")
    if sorter is not None:
        order = as_places(sorter)
        if order.node.shape != sorted_.node.shape:
            raise ValueError(
                f"searchsorted: sorter {shown(order)} is for other values than {shown(sorted_)}; give "
                "a place for each"
            )
        sorted_ = take(sorted_, order, 0)
    dtype = promote((sorted_.dtype, values.dtype))
    operands = cast(sorted_, dtype).node, cast(values, dtype).node
    shape, params = values.node.shape, (("side", side),)
    kind = np.dtype(np.intp)
    return wrap(make(OPS["searchsorted"], operands, params, shape, kind, traced_line()))


# --- by place -------------------------------------------------------------------------------------


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """Entries of ``x`` along an axis, at the places ``indices`` (None: of all elements).

    Raises
    ------
    IndexError
        ``indices`` are no integers, or one is out of range, as far as they are known; of places that
        are computed, it comes when they are.
    """
    x, at = one_axis("take", with_axes(x), axis)
    places = as_places(indices).node
    check_places("take", x, at, places)
    return take_along("take", x, places, at)


def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Tensor:
    """An entry of ``x`` along an axis for each place of ``indices``, which has as many axes.

    Raises
    ------
    ValueError
        They have other axes.
    IndexError
        As :func:`take`; or beside ``axis`` the shapes do not broadcast.
    """
    x, at = one_axis("take_along_axis", as_tensor(x), axis)
    places = as_places(indices)
    check_places("take_along_axis", x, at, places.node)
    if places.ndim != x.ndim:
        raise ValueError(
            f"take_along_axis: indices {shown(places)} have other axes than {shown(x)}; give as many"
        )
    of_x, of_places = list(x.node.shape), list(places.node.shape)
    count, of_x[at], of_places[at] = of_places[at], 1, 1
    try:
        rest = list(common_shape(tuple(of_x), tuple(of_places)))
    except ValueError as error:
        raise IndexError(
            f"take_along_axis: indices {shown(places)} and {shown(x)} do not broadcast: {error}"
        ) from None
    size, rest[at] = x.node.shape[at], count
    of_all = tuple(rest)
    wide = wrap(apply_view("broadcast", (*of_all[:at], size, *of_all[at + 1 :]), x.node))
    chosen = apply_view("broadcast", of_all, places.node)
    params = (("axis", at),)
    row = OPS["take_along_axis"]
    return wrap(make(row, (wide.node, chosen), params, of_all, x.dtype, traced_line()))


def count_nonzero(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """How many elements are not zero, along axes."""
    return total(elementwise(OPS["not_equal"], as_tensor(x), 0), axis, np.intp, keepdims)


def nonzero(x: Any) -> tuple[Tensor, ...]:
    """Places of elements that are not zero, axis by axis; ``x`` is computed to find them.

    Raises
    ------
    ValueError
        ``x`` has no axes.
    """
    t = as_tensor(x)
    if not t.ndim:
        raise ValueError(f"nonzero: {shown(t)} has no axes; add one with t[None]")
    return tuple(map(Tensor, t.compute().nonzero()))


# --- distinct values ------------------------------------------------------------------------------


class UniqueAll(NamedTuple):
    """Distinct values, the first place of each, which of them each element is, and how often each is."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """Distinct values and how often each is."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """Distinct values and which of them each element is."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Any) -> UniqueAll:
    """Distinct values in order, with places, inverse and counts; ``x`` is computed. NaN are distinct."""
    return UniqueAll(*map(Tensor, np.unique_all(as_tensor(x).compute())))


def unique_counts(x: Any) -> UniqueCounts:
    """Distinct values in order, and how often each is; ``x`` is computed. NaN are distinct."""
    return UniqueCounts(*map(Tensor, np.unique_counts(as_tensor(x).compute())))


def unique_inverse(x: Any) -> UniqueInverse:
    """Distinct values in order, and which of them each element is; ``x`` is computed."""
    return UniqueInverse(*map(Tensor, np.unique_inverse(as_tensor(x).compute())))


def unique_values(x: Any) -> Tensor:
    """Distinct values in order; ``x`` is computed. NaN are distinct."""
    return Tensor(np.unique(as_tensor(x).compute(), equal_nan=False))
