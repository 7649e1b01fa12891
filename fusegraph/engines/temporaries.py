"""Temporaries: what NumPy's own calls allocate beside their operands.

In: a node that is evaluated by one call of NumPy. Out: bytes, as an upper bound.
"""

from __future__ import annotations

import numpy as np

from fusegraph.graph import Node
from fusegraph.ops import resolve

BITS = np.dtype("i4")  # ``where`` chooses among up to 32 bits by a mask of as many


def temporary_bytes(node: Node, elements: int, dense: bool) -> int:
    """Bytes that a call takes for so many ``elements``, whose operands lie ``dense`` or not."""
    if node.kind == "reduce":
        return reduction_bytes(node)
    buffered = min(np.getbufsize(), elements)
    if node.op.name == "where":
        # ``np.putmask`` copies what does not lie dense: its mask, what it takes, and what it writes to.
        copied = 0 if dense else 1 + 2 * node.dtype.itemsize
        return buffered * BITS.itemsize + elements * max(BITS.itemsize, copied)
    if not isinstance(node.op.function, np.ufunc):
        return 0
    # It casts through buffers; and where operands have strides or are broadcast it may buffer any.
    operands = tuple(i.dtype for i in node.inputs)
    loops, _ = resolve(node.op.name, operands)
    if dense and loops == operands:
        return 0
    return buffered * sum(dtype.itemsize for dtype in (*loops, node.dtype))


def reduction_bytes(node: Node) -> int:
    """Bytes of the buffer through which a reduction in another dtype casts."""
    given = node.inputs[0].dtype
    working = dict(node.params).get("dtype") or given
    return 0 if working == given else np.getbufsize() * int(working.itemsize)
