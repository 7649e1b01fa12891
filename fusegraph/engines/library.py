"""Kernels that are one call of NumPy over stored operands: reductions and joins.

The parameters of these nodes are pairs ``(keyword, value)`` in the words of the NumPy function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fusegraph.graph import Node
from fusegraph.orders import is_row_major

Call = Callable[[list[Any], Any], None]
"""Runs on the operands and writes the output."""


def library_scratch(node: Node, orders: Mapping[Node, Any]) -> int:
    """Bytes that NumPy allocates inside: argmax and argmin copy what they cannot walk in order."""
    if node.op.name not in ("argmax", "argmin"):
        return 0
    source = node.inputs[0]
    axis = dict(node.params)["axis"]
    in_order = is_row_major(orders[source])
    return 0 if in_order and axis in (None, len(source.shape) - 1) else source.nbytes


def library_call(node: Node) -> Call:
    """The call that computes a ``reduce`` or ``join`` node into its output."""
    keywords = dict(node.params)
    function = node.op.function
    if node.kind == "join":
        return lambda inputs, out: function(inputs, out=out, casting="unsafe", **keywords)

    def reduce(inputs: list[Any], out: Any) -> None:
        function(inputs[0], out=out, **keywords)

    return reduce
