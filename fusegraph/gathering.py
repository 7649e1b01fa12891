"""Indexing by arrays: elements gathered by their places.

In: a tensor and a key. Out: a tensor. Places are values like others, so gathering is lazy; a mask of
truth values decides on a shape, so its own value is computed when the expression is built.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fusegraph.callables import PLACES
from fusegraph.graph import Node, Shape, common_shape, make
from fusegraph.indexing import index_params
from fusegraph.ops import OPS
from fusegraph.sources import traced_line
from fusegraph.tensor import Tensor, as_node, shown, wrap
from fusegraph.views import apply_view

SEQUENCES = (list, tuple, range)  # arrays, where they are parts of a key


def get_item(t: Tensor, key: Any) -> Tensor:
    """``t[key]``: views for ints, slices, ``...`` and None; arrays of ints or truth values gather.

    Raises
    ------
    TypeError
        A part of the key is none of these.
    IndexError
        Too many indices, or one out of range, or a mask of another shape.
    """
    keys = tuple(map(_part, key if isinstance(key, tuple) else (key,)))
    if not any(map(_is_array, keys)):
        reads_no_size = all(map(_takes_all, keys))
        expanded, kept = index_params(key, t.node.shape if reads_no_size else t.shape)
        return wrap(apply_view("expand", expanded, apply_view("slice", kept, t.node)))
    if any(map(_is_truth, keys)):
        if len(keys) == 1:
            whole = t[None]
            return whole if bool(keys[0]) else whole[:0]
        t, keys = _without_truths(t, keys)
    parts = _without_masks(t, keys)
    places = _without_ellipsis(parts, t)
    # An int beside an array is an array of one place: it takes part in where the new axes stand.
    views = tuple(k if k is None or isinstance(k, slice) else slice(None) for k in places)
    seen = t[views]
    axes = [axis for axis, k in enumerate(places) if _gathers(k)]
    found = gather(seen, axes, [as_node(places[axis]) for axis in axes])
    where = [at for at, k in enumerate(parts) if _gathers(k)]
    if _stand_together(axes) and not _stand_together(where):  # ``...`` for no axes parts them too
        found = _with_first(found, axes[0], found.ndim - seen.ndim + len(axes))
    return found


def names_places(key: Any) -> bool:
    """Is there an array, or a sequence, in the key?"""
    return any(map(_is_array, map(_part, key if isinstance(key, tuple) else (key,))))


def with_places(t: Tensor, key: Any, values: Tensor) -> Tensor:
    """``t`` with ``values``, which fit ``t[key]``, at a key that names places.

    Raises
    ------
    TypeError
        There is a truth value in the key.
    """
    keys = tuple(map(_part, key if isinstance(key, tuple) else (key,)))
    if any(map(_is_truth, keys)):
        raise TypeError(
            "setitem: a truth value in a key has no lazy form; write t = fg.where(truth, value, t)"
        )
    parts = _without_masks(t, keys)
    places = [as_node(k) for k in parts if isinstance(k, (Tensor, np.ndarray))]
    kept = tuple(map(_as_parameter, parts))
    inputs, params = (t.node, values.node, *places), (("key", kept),)
    return wrap(make(OPS["assign_places"], inputs, params, t.node.shape, t.dtype, traced_line()))


def _as_parameter(part: Any) -> Any:
    """A part of a key as a parameter of ``assign_places``."""
    if isinstance(part, slice):
        bounds = (part.start, part.stop, part.step)
        return tuple(None if bound is None else operator.index(bound) for bound in bounds)
    return PLACES if isinstance(part, (Tensor, np.ndarray)) else part


def _gathers(part: Any) -> bool:
    """Does this part of a key name places?"""
    return part is not None and part is not Ellipsis and not isinstance(part, slice)


def _stand_together(axes: Sequence[int]) -> bool:
    return all(b == a + 1 for a, b in pairwise(axes))


def _with_first(t: Tensor, start: int, count: int) -> Tensor:
    """``t`` with ``count`` axes from ``start`` on before all others."""
    moved = range(start, start + count)
    order = (*moved, *(a for a in range(t.ndim) if a not in moved))
    return wrap(apply_view("permute", order, t.node))


def gather(t: Tensor, axes: list[int], places: list[Node]) -> Tensor:
    """Elements at ``places`` along ``axes``, which stand together or else come first."""
    for axis, node in zip(axes, places, strict=True):
        check_places("index", t, axis, node)
    if len(axes) == 1:
        return take_along("take", t, places[0], axes[0])
    shape = t.node.shape
    try:
        found = common_shape(*(node.shape for node in places))
    except ValueError as error:
        shapes = " and ".join(str(list(node.shape)) for node in places)
        raise IndexError(f"index: arrays of {shapes} do not broadcast: {error}") from None
    first = axes[0] if _stand_together(axes) else 0
    rest = tuple(n for axis, n in enumerate(shape) if axis not in axes)
    params = (("axes", tuple(axes)),)
    result = (*rest[:first], *found, *rest[first:])
    return wrap(make(OPS["index"], (t.node, *places), params, result, t.dtype, traced_line()))


def take_along(name: str, t: Tensor, places: Node, axis: int) -> Tensor:
    """Entries of one axis; ``name`` is the row."""
    shape = t.node.shape
    result: Shape = (*shape[:axis], *places.shape, *shape[axis + 1 :])
    params = (("axis", axis),)
    return wrap(make(OPS[name], (t.node, places), params, result, t.dtype, traced_line()))


def as_places(given: Any) -> Tensor:
    """Places as a tensor; a sequence of nothing, of which NumPy makes floats, is of integers."""
    t = given if isinstance(given, Tensor) else Tensor(given)
    if isinstance(given, SEQUENCES) and not t.node.size:
        return Tensor(np.empty(t.node.shape, np.intp))
    return t


def check_places(name: str, t: Tensor, axis: int, places: Node) -> None:
    """Refuse what are no places, or places that the axis has not, as far as they are known.

    Raises
    ------
    IndexError
        They are no integers, or one is out of range.
    """
    size = t.node.shape[axis]
    if places.dtype.kind not in "iu":
        raise IndexError(
            f"{name}: places along axis {axis} of {shown(t)} are {places.dtype}; give integers"
            + (", or a mask of its shape" if name == "index" else "")
        )
    if places.data is None or not places.size:
        return
    least, most = int(places.data.min()), int(places.data.max())
    if least < -size or most >= size:
        raise IndexError(
            f"{name}: place {most if most >= size else least} is out of range for axis {axis} of "
            f"{shown(t)}; it goes from {-size} to {size - 1}"
        )


# --- keys -----------------------------------------------------------------------------------------


def _part(key: Any) -> Any:
    """A part of a key, sequences and truth values as arrays."""
    if isinstance(key, (bool, np.bool_)):
        return np.asarray(key)
    return as_places(key) if isinstance(key, SEQUENCES) else key


def _is_array(key: Any) -> bool:
    """Does this part of a key gather? An integer without axes is an int, if it is known."""
    if isinstance(key, Tensor) and key.node.data is None:
        return key.ndim > 0 or key.dtype.kind in "biu"
    return isinstance(key, (Tensor, np.ndarray)) and (key.ndim > 0 or key.dtype.kind == "b")


def _takes_all(key: Any) -> bool:
    """Is this part of a key the same for every size?"""
    if isinstance(key, slice):
        return key.start is None and key.stop is None and key.step is None
    return key is None or key is Ellipsis


def _is_mask(key: Any) -> bool:
    return _is_array(key) and key.dtype.kind == "b"


def _is_truth(key: Any) -> bool:
    """Is it a mask without axes?"""
    return _is_mask(key) and not key.ndim


def _without_truths(t: Tensor, keys: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
    """``t`` with an axis of one for each truth value in the key, and the places that it takes there."""
    spread: list[Any] = []
    for key in keys:
        if key is Ellipsis or _is_truth(key):
            spread.append(key if key is Ellipsis else None)
        else:
            spread += [slice(None)] * _taken(key)
    return t[tuple(spread)], tuple(np.arange(int(bool(k))) if _is_truth(k) else k for k in keys)


def _without_masks(t: Tensor, keys: tuple[Any, ...]) -> list[Any]:
    """The key with the places where a mask is true in place of the mask."""
    found: list[Any] = []
    axis = 0  # of ``t``, that the next part is for
    for at, key in enumerate(keys):
        if key is Ellipsis:
            axis = len(t.node.shape) - sum(map(_taken, keys[at + 1 :]))
        elif _is_mask(key):
            mask = np.asarray(key)
            size = t.node.shape[axis : axis + mask.ndim]
            fits = len(size) == mask.ndim
            # An axis of nothing chooses nothing: the standard lets it stand for any.
            if not fits or any(m not in (n, 0) for m, n in zip(mask.shape, size, strict=True)):
                raise IndexError(
                    f"index: a mask of {list(mask.shape)} is for other axes than those from {axis} on "
                    f"of {shown(t)}, which have {list(size)}"
                )
            found += mask.nonzero()
            axis += mask.ndim
            continue
        found.append(key)
        axis += key is not Ellipsis and key is not None
    return found


def _taken(key: Any) -> int:
    """How many axes a part of a key is for."""
    if key is None:
        return 0
    return int(key.ndim) if _is_mask(key) else 1


def _without_ellipsis(keys: list[Any], t: Tensor) -> list[Any]:
    """The key with a part for each axis, and None for new ones."""
    taken = sum(k is not None and k is not Ellipsis for k in keys)
    rank, several = len(t.node.shape), sum(k is Ellipsis for k in keys)
    if taken > rank or several > 1:
        raise IndexError(f"index: {taken} indices for {shown(t)}; give at most {rank}, and one ...")
    rest = [slice(None)] * (rank - taken)
    at = next((n for n, k in enumerate(keys) if k is Ellipsis), len(keys))
    return [*keys[:at], *rest, *keys[at + 1 :]]
