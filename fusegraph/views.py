"""What a view does: to a shape, to the operands of an element-wise op, to the order in memory.

In: a view row and its parameters. Out: shapes, operand views, axis orders. Views move no bytes; the
rewriter pushes them to the leaves with ``operand_views``.

Parameters of each view: ``permute`` axes; ``reshape`` and ``broadcast`` the new shape; ``expand`` and
``squeeze`` sorted axes (of the result, of the operand); ``slice`` one entry an axis: an int drops the
axis, a triple ``(start, stop, step)`` keeps it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusegraph.graph import GraphError, Node, Shape, make
from fusegraph.ops import OPS

Params = tuple[Any, ...]
View = tuple[str, Params]
Order = tuple[int, ...] | None
"""Axes from slowest to fastest in memory where the value is dense; None where it is not."""


def view_shape(name: str, params: Params, shape: Shape) -> Shape:
    """Shape of ``shape`` seen through a view.

    Raises
    ------
    GraphError
        A squeezed axis is none of one element.
    """
    if name == "permute":
        return tuple(shape[a] for a in params)
    if name in ("reshape", "broadcast"):
        return params
    if name == "expand":
        rest = iter(shape)
        return tuple(1 if a in params else next(rest) for a in range(len(shape) + len(params)))
    if name == "squeeze":
        if any(shape[a] != 1 for a in params):
            raise GraphError(f"axes {params} of {list(shape)} are not of one element each")
        return tuple(n for a, n in enumerate(shape) if a not in params)
    kept = ((key, n) for key, n in zip(params, shape, strict=True) if not isinstance(key, int))
    return tuple(len(range(*slice(*key).indices(n))) for key, n in kept)


def is_identity(name: str, params: Params, shape: Shape) -> bool:
    """Does the view show the operand just as it is?"""
    if name == "permute":
        return params == tuple(range(len(shape)))
    if name in ("reshape", "broadcast"):
        return params == shape
    if name == "slice":
        return all(key == (0, n, 1) for key, n in zip(params, shape, strict=True))
    return not params


def apply_view(name: str, params: Params, node: Node) -> Node:
    """The node for a view of ``node``; ``node`` itself where the view changes nothing."""
    if is_identity(name, params, node.shape):
        return node
    return make(OPS[name], (node,), params, view_shape(name, params, node.shape), node.dtype)


def operand_views(name: str, params: Params, out: Shape, operand: Shape) -> list[View] | None:
    """Views of an operand that stand for a view of the element-wise result, or None.

    ``op(a, b)`` of shape ``out`` seen through the view equals ``op`` over each operand seen through
    the views returned here. None where that would compute more (``broadcast``) or copy (``reshape``
    of an operand that is itself broadcast).
    """
    if not operand:
        return [] if out else None  # nothing else would give the result the shape of the view
    if name == "broadcast" or (name == "reshape" and operand != out):
        return None
    missing = len(out) - len(operand)
    if name == "slice":
        keys = params[missing:]
        return [("slice", tuple(
            key if size == operand[a] else _on_broadcast_axis(key)
            for a, (key, size) in enumerate(zip(keys, out[missing:], strict=True))
        ))]  # fmt: skip
    aligned: list[View] = [("expand", tuple(range(missing)))] if missing else []
    return [*aligned, (name, params)]


def _on_broadcast_axis(key: Any) -> Any:
    return 0 if isinstance(key, int) else (0, 1, 1)


def array_order(array: np.ndarray[Any, Any]) -> Order:
    """Axis order of an array in memory, None where it is not dense."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    order = tuple(sorted(range(array.ndim), key=lambda a: -array.strides[a]))
    return order if array.transpose(order).flags.c_contiguous else None


def is_mapped(array: np.ndarray[Any, Any]) -> bool:
    """Does the array, or what it is a view of, lie in a file (``numpy.memmap``)?"""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap):
            return True
        owner = owner.base
    return False


def layout_key(array: np.ndarray[Any, Any]) -> tuple[Any, bool]:
    """How an array lies, as far as a plan depends on it: its axis order (None for C), and in a file?"""
    order = None if array.flags.c_contiguous else array_order(array) or "strided"
    return order, array.base is not None and is_mapped(array)


def order_through(name: str, params: Params, order: Order, shape: Shape) -> Order:
    """Axis order of a dense value after a view of it (``reshape`` of anything but C order: None)."""
    if order is None:
        return None
    if name == "permute":
        return tuple(params.index(a) for a in order)
    if name == "reshape":
        return tuple(range(len(params))) if order == tuple(range(len(shape))) else None
    if name == "expand":
        kept = [a for a in range(len(shape) + len(params)) if a not in params]
        return tuple(sorted((*params, *kept))) if order == tuple(range(len(shape))) else (
            *params, *(kept[a] for a in order))  # fmt: skip
    if name == "squeeze":
        kept = [a for a in range(len(shape)) if a not in params]
        return tuple(kept.index(a) for a in order if a in kept)
    return order if is_identity(name, params, shape) else None
