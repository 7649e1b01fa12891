"""The graph: interned, immutable nodes, and what can be asked of them.

In: ops, arrays and scalars. Out: ``Node`` (equal nodes are the same object, so common
sub-expressions vanish when they are built), traversals and ``verify``. Nothing here
recurses: a chain of a million nodes builds, is walked and is freed.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fusegraph.ops import OPS, Op

Shape = tuple[int, ...]
DType = np.dtype[Any]
Array = np.ndarray[Any, Any]
MOST_AXES = 64  # of NumPy's arrays
MOST_ELEMENTS = 2**63 - 1
SIZE = ("size",)  # parameters of a constant that follows from a shape


class Node:
    """One value of the graph; compared by identity, because equal nodes are interned.

    Attributes
    ----------
    op : Op
        The row of the op table.
    inputs : tuple of Node
    params : tuple
        What else tells this node from another: axes, slices, a dtype.
    shape : tuple of int
    dtype : numpy.dtype
    data : numpy.ndarray or None
        The array of an ``input`` or ``const`` node; None for a placeholder.
    source : str
        ``file:line`` of the user's call, when sources are traced.
    """

    __slots__ = (
        "__weakref__",
        "data",
        "dtype",
        "inputs",
        "kind",
        "op",
        "params",
        "shape",
        "source",
    )

    def __init__(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        params: tuple[Any, ...],
        shape: Shape,
        dtype: DType,
        source: str = "",
    ) -> None:
        self.op = op
        self.kind = op.kind
        self.inputs = inputs
        self.params = params
        self.shape = shape
        self.dtype = dtype
        self.data: Any = None
        self.source = source

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the value when it is stored."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.op.name}:{self.dtype}{list(self.shape)}"


class _Entry(weakref.ref[Node]):
    """What the table holds: a weak reference that knows its key."""

    __slots__ = ("key",)
    key: tuple[Any, ...]


_interned: dict[tuple[Any, ...], _Entry] = {}
# Removes a key whose reference is dead in one step, as weakref's own dictionaries do. To look first and
# then delete loses what another thread entered in between; a lock would have to be waited for wherever
# a node is freed: within a garbage collection, or when the process ends beside a thread that holds it.
_remove_dead = weakref._remove_dead_weakref  # type: ignore[attr-defined]


def _forget(entry: weakref.ref[Node]) -> None:
    assert isinstance(entry, _Entry)
    _remove_dead(_interned, entry.key)


def _find(key: tuple[Any, ...]) -> Node | None:
    entry = _interned.get(key)
    return None if entry is None else entry()


def _intern(key: tuple[Any, ...], node: Node) -> Node:
    """``node``, or the equal one that another thread entered first."""
    entry = _Entry(node, _forget)
    entry.key = key
    while (known := _interned.setdefault(key, entry)) is not entry:
        found = known()
        if found is not None:
            return found
        _remove_dead(_interned, key)  # it died just now
    return node


def make(
    op: Op,
    inputs: tuple[Node, ...],
    params: tuple[Any, ...],
    shape: Shape,
    dtype: DType,
    source: str = "",
) -> Node:
    """The node for ``op`` over ``inputs``; the same object whenever the arguments are equal.

    A traced ``source`` line is one of them: equal expressions on two lines stay apart.

    The key holds the inputs by ``id``: the node keeps them alive, and a key dies with its node.
    """
    key = (op.name, params, dtype.char, shape, source, *map(id, inputs))
    return _find(key) or _intern(key, Node(op, inputs, params, shape, dtype, source))


def const(value: Any, dtype: DType) -> Node:
    """A scalar constant. Keyed by dtype and bytes: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if value.__class__ in (int, float) and value:
        return _scalar_const(value, dtype)
    return _make_const(value, dtype, ())


def size_const(value: Any, dtype: DType) -> Node:
    """A constant of eight bytes that follows from a shape, such as how many elements a mean is of.

    Generated code reads it from memory, so that the same code serves every size.
    """
    return _make_const(value, dtype, SIZE)


@lru_cache(maxsize=1024)
def _scalar_const(value: float, dtype: DType) -> Node:
    """Python's numbers but zero (whose signs are equal keys), remembered: 1 and 1.0 mean the same."""
    return _make_const(value, dtype, ())


def _make_const(value: Any, dtype: DType, params: tuple[str, ...]) -> Node:
    with np.errstate(over="ignore"):
        data = np.asarray(value, dtype)
    key = ("const", dtype.char, data.tobytes(), params)
    found = _find(key)
    if found is None:
        node = Node(OPS["const"], (), params, (), dtype)
        data.flags.writeable = False
        node.data = data
        found = _intern(key, node)
    return found


def leaf(array: Array) -> Node:
    """An array of the user's: shared, never written, held for as long as the node lives."""
    # By its shape too: NumPy lets users change that of an array.
    key = ("leaf", id(array), array.shape, array.strides, array.dtype.char)
    found = _find(key)
    if found is None:
        node = Node(OPS["input"], (), (), array.shape, array.dtype.newbyteorder("="))
        node.data = array
        found = _intern(key, node)
    return found


def placeholder(
    slot: int,
    shape: Shape,
    dtype: DType,
    order: tuple[int, ...] | None,
    mapped: bool = False,
    ranks: tuple[int, ...] = (),
) -> Node:
    """Stands for the ``slot``-th array of a run, so that a plan holds no arrays.

    ``order`` is that of its axes where it is dense, and ``ranks`` are those where it is not (see
    ``orders``); ``mapped``: the array lies in a file.
    """
    return make(OPS["input"], (), (slot, order, mapped, ranks), shape, dtype)


def topological(outputs: Iterable[Node]) -> list[Node]:
    """Every node below ``outputs``, producers first, in an order that depends on the graph alone."""
    order: list[Node] = []
    opened: set[Node] = set()
    done: set[Node] = set()
    stack = list(outputs)[::-1]
    while stack:
        node = stack.pop()
        if node in done:
            continue
        if node in opened or not node.inputs:
            done.add(node)
            order.append(node)
        else:  # it comes back when what it reads is done
            opened.add(node)
            stack.append(node)
            stack.extend([i for i in node.inputs[::-1] if i not in done])
    return order


def consumers(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """For each node its consumers, once each, in the order of ``nodes``."""
    found: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for operand in dict.fromkeys(node.inputs):
            found[operand].append(node)
    return found


def common_shape(*shapes: Shape) -> Shape:
    """The shape that all broadcast to. NumPy's own function stops at 32 axes.

    Raises
    ------
    ValueError
        They broadcast to none, or to one with more elements than an array can have.
    """
    rank = max(map(len, shapes))
    found = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size not in (1, found[axis]):
                if found[axis] != 1:
                    raise ValueError(f"sizes {found[axis]} and {size} of axis {axis} differ")
                found[axis] = size
    return checked_shape(tuple(found))


def checked_shape(shape: Shape) -> Shape:
    """``shape``, if an array can have it.

    Raises
    ------
    ValueError
        It has too many axes or elements, or a negative size.
    """
    if len(shape) > MOST_AXES:
        raise ValueError(f"{len(shape)} axes; an array has at most {MOST_AXES}")
    if any(size < 0 for size in shape):
        raise ValueError(f"a size in {list(shape)} is negative; sizes are 0 or more")
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{list(shape)} has more elements than an array can have")
    return shape


def iteration_space(node: Node) -> Shape:
    """The axes that a node loops over: a reduction loops over its operand."""
    return node.inputs[0].shape if node.kind == "reduce" else node.shape


def reduced_axes(node: Node) -> tuple[int, ...]:
    """Axes of its operand that a reduction runs along."""
    axis = dict(node.params)["axis"]
    if axis is None:
        return tuple(range(len(node.inputs[0].shape)))
    return (axis,) if isinstance(axis, int) else tuple(axis)


class GraphError(Exception):
    """A stage broke an invariant of the graph: a fault of fusegraph, not of the user."""


def verify(outputs: Sequence[Node]) -> None:
    """Check shapes and arity of every node below ``outputs``.

    Raises
    ------
    GraphError
        Naming the node and the broken rule.
    """
    for node in topological(outputs):
        if node.op.arity not in (-1, len(node.inputs)):
            raise GraphError(f"{node}: {len(node.inputs)} inputs, the row says {node.op.arity}")
        if node.kind == "elementwise":
            shape = common_shape(*(i.shape for i in node.inputs))
            if shape != node.shape:
                raise GraphError(f"{node}: its inputs broadcast to {shape}")
        if node.kind in ("input", "const") and node.inputs:
            raise GraphError(f"{node}: a leaf with inputs")
