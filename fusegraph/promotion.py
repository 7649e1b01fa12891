"""Promotion: dtype, shape and constants of an element-wise node, by NumPy's rules.

In: a row of the op table over nodes and Python's numbers. Out: its node, or the error that names op,
shapes, dtypes and the remedy. Python's ints, floats and complex numbers are weak: they take the dtype of
the other operands (NEP 50).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from fusegraph.graph import DType, Node, Shape, common_shape, const, make
from fusegraph.ops import Op, resolve
from fusegraph.sources import traced_line
from fusegraph.views import apply_view

WEAK = (int, float, complex)


def promoted(op: Op, operands: Sequence[Any], params: tuple[Any, ...] = ()) -> Node:
    """The node of ``op`` over nodes and weak numbers, of which not all are weak.

    Raises
    ------
    TypeError
        NumPy has no loop for these dtypes.
    ValueError
        The shapes do not broadcast.
    OverflowError
        A Python integer does not fit the dtype it would take.
    """
    # What promotion looks at: a dtype, or the type of a weak number.
    kinds = tuple([type(v) if type(v) in WEAK else v.dtype for v in operands])
    loops, result = resolve(op.name, kinds)
    nodes = list(operands)
    for at, value in enumerate(operands):
        if type(value) in WEAK:
            fitting = _weak_constant(op, value, loops[at], at)
            if fitting is None:
                return _always(op, nodes, at)
            nodes[at] = fitting
    return broadcast_node(op, tuple(nodes), params, result)


def broadcast_node(op: Op, nodes: tuple[Node, ...], params: tuple[Any, ...], dtype: DType) -> Node:
    """The node of ``op``, whose shape is the operands' common one."""
    shape = nodes[0].shape
    for node in nodes[1:]:
        if node.shape != shape:
            if not node.shape:
                continue
            shape = _broadcast(op.name, nodes) if shape else node.shape
    return make(op, nodes, params, shape, dtype, traced_line())


def _broadcast(name: str, nodes: tuple[Node, ...]) -> Shape:
    """Common shape of operands.

    Raises
    ------
    ValueError
        Naming the op, the shapes and the remedy.
    """
    try:
        return common_shape(*(node.shape for node in nodes))
    except ValueError as error:
        shapes = " and ".join(f"{n.dtype}{list(n.shape)}" for n in nodes)
        raise ValueError(
            f"{name}: shapes of {shapes} do not broadcast: {error}; sizes must be equal or 1, counted "
            "from the last axis (insert axes with t[:, None])"
        ) from None


def _weak_constant(op: Op, value: Any, dtype: DType, at: int) -> Node | None:
    """A Python scalar in the dtype of the loop; None for a comparison that its range decides."""
    if type(value) is int and dtype.kind in "iu":
        info = np.iinfo(dtype)
        if not info.min <= value <= info.max:
            if op.name == "where" and abs(value) < 2**63:
                with suppress(OverflowError):  # NumPy 2.4 and earlier wrap it
                    return const(np.where(True, value, np.zeros((), dtype)), dtype)
            if op.flop_class == "compare" and op.method:
                return None
            raise OverflowError(
                f"{op.name}: Python integer {value} does not fit {dtype}; cast the other operand with "
                ".astype(...), or give a NumPy scalar"
            )
        if op.name == "pow" and at == 1 and value < 0:
            raise ValueError(
                f"pow: {dtype} to the negative power {value} is no integer; cast to a float dtype first"
            )
    return const(value, dtype)


def _always(op: Op, operands: list[Any], at: int) -> Node:
    """A comparison with an integer beyond the dtype's range: the same answer for every element."""
    other = operands[1 - at]
    probe = np.zeros((), other.dtype).item()
    pair = (operands[at], probe) if at == 0 else (probe, operands[at])
    answer = const(getattr(operator, op.method)(*pair), np.dtype(bool))
    return apply_view("broadcast", other.shape, answer)
