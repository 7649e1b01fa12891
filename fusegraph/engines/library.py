"""Kernels that are one call of NumPy over stored operands: reductions and joins.

The parameters of these nodes are pairs ``(keyword, value)`` in the words of the NumPy function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fusegraph.engines.reductions import reorders
from fusegraph.graph import Node

Call = Callable[[list[Any], Any], None]
"""Runs on the operands and writes the output."""


def library_scratch(node: Node, orders: Mapping[Node, Any]) -> int:
    """Bytes that NumPy allocates inside: argmax and argmin copy what they cannot walk in order.

    A sum whose order NumPy chooses gives a result of its own.
    """
    if node.op.name not in ("argmax", "argmin"):
        return node.nbytes if _orders_sums(node, orders) else 0
    source = node.inputs[0]
    axis = dict(node.params)["axis"]
    in_order = _is_row_major(source, orders)
    return 0 if in_order and axis in (None, len(source.shape) - 1) else source.nbytes


def _is_row_major(value: Node, orders: Mapping[Node, Any]) -> bool:
    found: bool = orders[value] == tuple(range(len(value.shape)))
    return found


def _orders_sums(node: Node, orders: Mapping[Node, Any]) -> bool:
    """Does the order in which NumPy adds follow how its result lies, which it chooses itself?"""
    return reorders(node) and not _is_row_major(node.inputs[0], orders)


def library_call(node: Node, orders: Mapping[Node, Any]) -> Call:
    """The call that computes a ``reduce`` or ``join`` node into its output."""
    keywords = dict(node.params)
    function = node.op.function
    if node.kind == "join":
        return lambda inputs, out: function(inputs, out=out, casting="unsafe", **keywords)

    if _orders_sums(node, orders):
        # Into a result in C order it adds in another order, and rounds otherwise.
        return lambda inputs, out: np.copyto(out, function(inputs[0], **keywords))

    def reduce(inputs: list[Any], out: Any) -> None:
        function(inputs[0], out=out, **keywords)

    return reduce
