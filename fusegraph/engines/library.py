"""Kernels that are one node over stored operands; reductions, joins and sorting are one call of NumPy.

In: a node. Out: a ``SingleCall``. Its parameters are pairs ``(keyword, value)``
in the words of the NumPy function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegraph.engines.base import Array
from fusegraph.engines.reductions import reduction_of
from fusegraph.engines.temporaries import reduction_bytes
from fusegraph.graph import Node
from fusegraph.orders import is_row_major


@dataclass(frozen=True, slots=True)
class SingleCall:
    """How a node that is a kernel by itself runs: a reduction, a library call, a product.

    Attributes
    ----------
    engine : str
        ``blas``, ``tiles``, or ``numpy`` for NumPy's own loop.
    schedule : str
        ``whole`` or ``tiles``.
    why : str
        Why this path.
    body : callable
        ``body(inputs, out)`` writes the result.
    seconds : float
        Predicted compute time on ``threads`` threads.
    threads : int
    tile : int
        Rows and columns of a tile; 0 where nothing is tiled.
    bytes_reread : int
        What tiling reads again, see :func:`fusegraph.engines.tiles.reread_bytes`.
    scratch_bytes : int
        Upper bound of temporaries of all threads.
    """

    engine: str
    schedule: str
    why: str
    body: Callable[[list[Array], Array], None]
    seconds: float
    threads: int
    tile: int = 0
    bytes_reread: int = 0
    scratch_bytes: int = 0


def library_call(node: Node, orders: Mapping[Node, Any], seconds: float) -> SingleCall:
    """NumPy's call of a ``reduce`` or ``call`` node, whose arithmetic takes ``seconds``."""
    why = f"{node.op.name} is one call of NumPy"
    scratch = _scratch_bytes(node, orders)
    return SingleCall("numpy", "whole", why, _body(node), seconds, 1, scratch_bytes=scratch)


def _scratch_bytes(node: Node, orders: Mapping[Node, Any]) -> int:
    """Bytes that NumPy allocates inside: what it casts, sorts in, and copies for argmax and argmin."""
    source, params = node.inputs[0], dict(node.params)
    if node.kind == "call":
        return _call_bytes(node, source)
    if node.op.name not in ("argmax", "argmin"):
        return reduction_bytes(node)
    in_order = is_row_major(orders[source])  # else it cannot walk along the axis
    return 0 if in_order and params["axis"] in (None, len(source.shape) - 1) else source.nbytes


def _call_bytes(node: Node, source: Node) -> int:
    """Bytes that a library call allocates at most, whatever the layout of its operands."""
    as_places = sum(i.size for i in node.inputs[1:]) * np.dtype(np.intp).itemsize
    match node.op.name:
        case "sort":  # in a copy, and so is each line along other axes
            return 3 * node.nbytes
        case "argsort":  # the same, of values and places, which are copied to ``out``
            return 5 * max(node.nbytes, source.nbytes)
        case "searchsorted":  # operands are made contiguous
            return node.nbytes + sum(i.nbytes for i in node.inputs)
        case "take":  # so is the source, and ``out`` is written when all places are checked
            return node.nbytes + source.nbytes + as_places
        case "assign_places":
            return as_places
        case "take_along_axis" | "index":
            return node.nbytes + as_places
        case "cumulative_sum" | "cumulative_prod":  # operands are cast
            return 0 if source.dtype == node.dtype else source.size * node.dtype.itemsize
    return 0


def _body(node: Node) -> Callable[[list[Array], Array], None]:
    """What computes the node into its output."""
    keywords = dict(node.params)
    if node.kind == "call":
        function = node.op.function
        return lambda inputs, out: function(inputs, out=out, casting="unsafe", **keywords)

    reduction = reduction_of(node)

    def reduce(inputs: list[Array], out: Array) -> None:
        reduction(inputs[0], out=out, **keywords)

    return reduce
