"""Kernels that are one call of NumPy over stored operands: reductions and joins.

The parameters of these nodes are pairs ``(keyword, value)`` in the words of the NumPy function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusegraph.graph import Node

Call = Callable[[list[Any], Any], None]
"""Runs on the operands and writes the output."""


def library_call(node: Node) -> Call:
    """The call that computes a ``reduce`` or ``join`` node into its output."""
    keywords = dict(node.params)
    function = node.op.function
    if node.kind == "join":
        return lambda inputs, out: function(inputs, out=out, casting="unsafe", **keywords)

    def reduce(inputs: list[Any], out: Any) -> None:
        function(inputs[0], out=out, **keywords)

    return reduce
