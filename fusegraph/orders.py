"""Order in memory: how arrays lie, and in which order of axes each value of a plan is stored.

In: arrays, or nodes over placeholders that know how their arrays lie. Out: an ``Order`` for every value,
NumPy's own: sums follow it, and so do their last bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fusegraph.graph import Array, Node, Shape, placeholder, reduced_axes
from fusegraph.views import Params, is_identity

Order = tuple[int, ...] | None
"""Axes from slowest to fastest in memory where the value is dense; None where it is not."""

Ranks = tuple[int, ...]
"""An axis' place among those of a value by distance in memory, 1 the nearest; 0 where nothing moves."""

COPY = ("C",)  # parameter of an astype node that stores its operand in C order


def is_row_major(order: Order) -> bool:
    """Is it C order?"""
    return order is not None and order == tuple(range(len(order)))


def undone(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order that takes axes in ``order`` back to their own."""
    return tuple(order.index(axis) for axis in range(len(order)))


# --- of arrays ------------------------------------------------------------------------------------


def array_order(array: Array) -> Order:
    """Axis order of an array in memory, None where it is not dense."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    order = tuple(sorted(range(array.ndim), key=lambda a: -array.strides[a]))
    return canonical(order, array.shape) if array.transpose(order).flags.c_contiguous else None


def canonical(order: Order, shape: Shape) -> Order:
    """The same order in memory, with axes of one element, which may stand anywhere, at their own."""
    if order is None or 1 not in shape:
        return order
    rest = (axis for axis in order if shape[axis] != 1)
    return tuple(axis if n == 1 else next(rest) for axis, n in enumerate(shape))


def array_ranks(array: Array) -> Ranks:
    """Ranks of the axes of an array, dense or not, whichever way it runs along them."""
    far = sorted({abs(s) for s in array.strides if s})
    return tuple(1 + far.index(abs(s)) if s else 0 for s in array.strides)


def row_major_ranks(rank: int) -> Ranks:
    """Ranks of axes in C order."""
    return tuple(range(rank, 0, -1))


def is_mapped(array: Array) -> bool:
    """Does the array, or what it is a view of, lie in a file (``numpy.memmap``)?"""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap):
            return True
        owner = owner.base
    return False


def stand_in(slot: int, array: Array) -> Node:
    """The placeholder of an array: its shape and dtype, and how it lies."""
    order = array_order(array)
    ranks = array_ranks(array) if order is None else ()
    dtype = array.dtype.newbyteorder("=")
    return placeholder(slot, array.shape, dtype, order, is_mapped(array), ranks)


def layout_key(array: Array) -> tuple[Any, bool]:
    """How an array lies, as far as a plan depends on it (None for C order), and is it in a file?"""
    if array.flags.c_contiguous:
        order: Any = None
    else:
        order = array_order(array) or ("strided", array_ranks(array))
    return order, array.base is not None and is_mapped(array)


# --- of values ------------------------------------------------------------------------------------


def value_orders(nodes: Sequence[Node], upright: Collection[Node] = ()) -> dict[Node, Order]:
    """Axis order in memory of every value: a kernel writes in the order that NumPy would choose.

    Those of ``upright`` are stored in C order whatever that is.
    """
    orders: dict[Node, Order] = {}
    ranks: dict[Node, Ranks] = {}  # of values that do not lie in C order
    for node in nodes:
        rank = len(node.shape)
        orders[node] = row_major = tuple(range(rank))
        if node.kind == "input":
            orders[node], found = _layout(node)
        elif node.kind == "view":
            source = node.inputs[0]
            through = order_through(node.op.name, node.params, orders[source], source.shape)
            orders[node] = canonical(through, node.shape)
            known = ranks.get(source) or row_major_ranks(len(source.shape))
            found = ranks_through(node.op.name, node.params, known, source.shape)
        elif node not in upright and _follows(node) and not ranks.keys().isdisjoint(node.inputs):
            operands = [
                (ranks.get(i) or row_major_ranks(len(i.shape)), i.shape) for i in node.inputs
            ]
            order = joint_order(operands)
            order = _without_reduced(node, order) if node.kind == "reduce" else order
            orders[node] = canonical(order, node.shape)
            found = tuple(rank - order.index(axis) for axis in row_major)
        else:
            continue
        if found != row_major_ranks(rank):
            ranks[node] = found
    return orders


def _follows(node: Node) -> bool:
    """Does a value lie as its operands do? The places of argmax and argmin are in C order."""
    if node.kind == "reduce":
        return bool(node.op.combines)
    return node.kind == "elementwise" and node.params != COPY


def _without_reduced(node: Node, order: tuple[int, ...]) -> tuple[int, ...]:
    """The order of a reduction's axes, from that in which NumPy walks its operand."""
    if dict(node.params)["keepdims"]:
        return order
    return _without(reduced_axes(node), order)


def _layout(node: Node) -> tuple[Order, Ranks]:
    """Order and ranks of an input."""
    if node.data is not None:
        return array_order(node.data), array_ranks(node.data)
    _, order, _, ranks = node.params
    if order is None:
        return None, ranks or row_major_ranks(len(node.shape))
    return order, tuple(len(order) - order.index(axis) for axis in range(len(order)))


def order_through(name: str, params: Params, order: Order, shape: Shape) -> Order:
    """Axis order of a dense value after a view of it (``reshape`` of anything but C order: None)."""
    if order is None:
        return None
    if name == "permute":
        return tuple(params.index(a) for a in order)
    if name == "reshape":
        return tuple(range(len(params))) if is_row_major(order) else None
    if name == "expand":
        axes = tuple(range(len(shape) + len(params)))
        kept = [a for a in axes if a not in params]
        return axes if is_row_major(order) else (*params, *(kept[a] for a in order))
    if name == "squeeze":
        return _without(params, order)
    if name == "slice":
        dropped = [axis for axis, key in enumerate(params) if isinstance(key, int)]
        return _without(dropped, order) if _is_one_piece(params, order, shape) else None
    return order if is_identity(name, params, shape) else None


def _without(axes: Collection[int], order: tuple[int, ...]) -> tuple[int, ...]:
    """The order of the axes that are left."""
    kept = [a for a in range(len(order)) if a not in axes]
    return tuple(kept.index(a) for a in order if a in kept)


def _is_one_piece(keys: Params, order: tuple[int, ...], shape: Shape) -> bool:
    """Does a slice of a dense value leave no gap? One axis may be cut; slower ones have one entry."""
    cut = False
    for axis in reversed(order):
        key = keys[axis]
        start, stop, step = (key, key + 1, 1) if isinstance(key, int) else key
        entries = len(range(*slice(start, stop, step).indices(shape[axis])))
        if entries != 1 and (cut or step != 1):
            return False
        cut = cut or entries < shape[axis]
    return True


def ranks_through(name: str, params: Params, ranks: Ranks, shape: Shape) -> Ranks:
    """Ranks of a value of ``shape`` after a view of it; what a reshape would copy is in C order."""
    if name == "permute":
        return tuple(ranks[a] for a in params)
    if name == "expand":
        rest = iter(ranks)
        return tuple(0 if a in params else next(rest) for a in range(len(ranks) + len(params)))
    if name == "squeeze":
        return tuple(r for a, r in enumerate(ranks) if a not in params)
    if name == "slice":
        return tuple(r for r, key in zip(ranks, params, strict=True) if not isinstance(key, int))
    if name == "broadcast":
        kept = (r if n > 1 else 0 for r, n in zip(ranks, shape, strict=True))
        return (*(0,) * (len(params) - len(shape)), *kept)
    return row_major_ranks(len(params))


def joint_order(operands: Sequence[tuple[Ranks, Shape]]) -> tuple[int, ...]:
    """Axes, slowest first, in which NumPy lays the result of an element-wise operation.

    Its iterator (``order="K"``) sorts axes by how far apart elements lie along them, by insertion from
    C order: two axes change places where every operand that moves along both says so.
    """
    known, rank = [], max(len(shape) for _, shape in operands)
    for ranks, shape in operands:
        moving = [r if n > 1 else 0 for r, n in zip(ranks, shape, strict=True)]
        known.append([0] * (rank - len(moving)) + moving)
    found = list(range(rank))[::-1]
    for at in range(1, rank):
        axis, place = found[at], at
        for before in range(at - 1, -1, -1):
            pairs = [(r[axis], r[found[before]]) for r in known if r[axis] and r[found[before]]]
            if any(far >= near for far, near in pairs):
                break
            place = before if pairs else place
        found.insert(place, found.pop(at))
    return tuple(found[::-1])
