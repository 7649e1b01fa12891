"""The reference: a graph evaluated by plain NumPy, one call an op, as a user would write it.

In: nodes over arrays. Out: arrays. Results of ``engine="numpy"`` equal these bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusegraph.graph import Array, Node, topological


def evaluate(outputs: Sequence[Node]) -> list[Array]:
    """Arrays of ``outputs``; intermediates are dropped after their last use, as NumPy drops them."""
    order = topological(outputs)
    last = {operand: at for at, node in enumerate(order) for operand in node.inputs}
    kept = set(outputs)
    values: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for at, node in enumerate(order):
            values[node] = _evaluate(node, [values[i] for i in node.inputs])
            for operand in set(node.inputs):
                if last[operand] == at and operand not in kept:
                    del values[operand]
    return [np.asarray(values[node]) for node in outputs]


def _evaluate(node: Node, inputs: list[Any]) -> Any:
    if node.data is not None:
        return node.data
    if node.kind == "view":
        return node.op.function(*inputs, *node.params)
    if node.kind == "reduce":
        return node.op.function(*inputs, **dict(node.params))
    if node.kind == "matmul":
        return np.matmul(*inputs)
    if node.kind == "elementwise" and isinstance(node.op.function, np.ufunc):
        return node.op.function(*inputs)
    out = np.empty(node.shape, node.dtype)
    if node.kind == "call":
        node.op.function(inputs, out=out, casting="unsafe", **dict(node.params))
    else:
        node.op.function(*inputs, out)
    return out
