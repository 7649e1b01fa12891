"""What a view does: to a shape, and to the operands of an element-wise op.

In: a view row and its parameters. Out: shapes, operand views. Views move no bytes; the
rewriter pushes them to the leaves with ``operand_views``.

Parameters of each view: ``permute`` axes; ``reshape`` and ``broadcast`` the new shape; ``expand`` and
``squeeze`` sorted axes (of the result, of the operand); ``slice`` one entry an axis: an int drops the
axis, a triple ``(start, stop, step)`` keeps it.
"""

from __future__ import annotations

from typing import Any

from fusegraph.graph import GraphError, Node, Shape, checked_shape, common_shape, make
from fusegraph.ops import OPS

Params = tuple[Any, ...]
View = tuple[str, Params]


def view_shape(name: str, params: Params, shape: Shape) -> Shape:
    """Shape of ``shape`` seen through a view.

    Raises
    ------
    GraphError
        A squeezed axis is none of one element.
    ValueError
        No array can have the shape.
    """
    if name == "permute":
        return tuple(shape[a] for a in params)
    if name in ("reshape", "broadcast"):
        return checked_shape(params)
    if name == "expand":
        rest = iter(shape)
        rank = len(shape) + len(params)
        return checked_shape(tuple(1 if a in params else next(rest) for a in range(rank)))
    if name == "squeeze":
        if any(shape[a] != 1 for a in params):
            raise GraphError(f"axes {params} of {list(shape)} are not of one element each")
        return tuple(n for a, n in enumerate(shape) if a not in params)
    kept = ((key, n) for key, n in zip(params, shape, strict=True) if not isinstance(key, int))
    return tuple(len(range(*slice(*key).indices(n))) for key, n in kept)


def base(node: Node) -> Node:
    """The stored value that a view shows."""
    while node.kind == "view":
        node = node.inputs[0]
    return node


def broadcasts(shape: Shape, wanted: Shape) -> bool:
    """Does a value of ``shape`` broadcast to the shape ``wanted``?"""
    try:
        return common_shape(shape, wanted) == wanted
    except ValueError:
        return False


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
