"""From a node to an array: the one it holds, or one that the user gives and its plan writes.

In: nodes and options. Out: arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusegraph.bound_plan import bind
from fusegraph.graph import Array, Node
from fusegraph.options import Options
from fusegraph.orders import array_order


def as_computed(node: Node) -> Array:
    """The array of a leaf; a constant as a fresh 0-d array.

    Raises
    ------
    TypeError
        The leaf is an argument of a function that jit traces: it has no value yet.
    """
    if node.data is None:
        raise TypeError(
            "a value is asked for while jit traces the function; choose with fg.where, or pass what "
            "decides as a Python value"
        )
    return node.data if node.kind == "input" else np.array(node.data)


def compute_into(node: Node, out: Any, options: Options, apart: bool = True) -> Array:
    """Run the plan of ``node`` into ``out``.

    ``apart``: an input must not overlap ``out``; otherwise the result is copied there, as NumPy does.

    Raises
    ------
    ValueError
        ``out`` has another shape, or overlaps an input that it must not.
    TypeError
        ``out`` is no writable array of the right dtype.
    """
    if not isinstance(out, np.ndarray) or not out.flags.writeable:
        raise TypeError(f"out: give a writable numpy.ndarray, got {type(out).__name__}")
    if out.shape != node.shape:
        raise ValueError(
            f"out: shape of {out.dtype}{list(out.shape)} is not that of the result, "
            f"{node.dtype}{list(node.shape)}; give an array of its shape and dtype"
        )
    if out.dtype != node.dtype:
        raise TypeError(
            f"out: dtype {out.dtype}, the result is {node.dtype}{list(node.shape)}; cast it with "
            f".astype({str(out.dtype)!r}), or give an array of {node.dtype}"
        )
    bound = bind([node], options)
    over = next((a for a in bound.graph.arrays if np.may_share_memory(a, out)), None)
    if over is not None and apart:
        raise ValueError(
            f"out: it overlaps an input {over.dtype}{list(over.shape)}; compute into a fresh array "
            "and copy"
        )
    result_node = bound.plan.outputs[0]
    stored = (pair for k in bound.kernels for pair in zip(k.region.outputs, k.stored, strict=True))
    order = next((order for value, order in stored if value is result_node), None)
    # A kernel writes memory in an order of its own; a view of an input is written by no kernel.
    direct = order is not None and array_order(out) == order and out.flags.aligned
    bound.keep_limit()
    (result,) = bound.program.run(bound.graph.arrays, [out] if direct and over is None else [])
    if result is not out:
        np.copyto(out, result)
    return out  # type: ignore[no-any-return]
