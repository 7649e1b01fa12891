"""Operations: tensors from tensors, arrays and numbers, by the rows of the op table.

In: a row and its operands. Out: a tensor, or the error that NumPy's rules ask for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fusegraph.arrays import checked_dtype
from fusegraph.graph import DType, const, make
from fusegraph.ops import OPS, Op, resolve
from fusegraph.promotion import WEAK, broadcast_node, promoted
from fusegraph.replay import matmul_shape
from fusegraph.sources import traced_line
from fusegraph.tensor import Tensor, as_node, wrap


def elementwise(op: Op, *operands: Any, params: tuple[Any, ...] = (), dtype: Any = None) -> Tensor:
    """The tensor of an element-wise op over tensors, arrays and scalars; see :func:`promoted`.

    ``dtype`` is the result's where the op is a cast.
    """
    nodes: list[Any] = []
    all_weak = True
    for value in operands:
        if type(value) in WEAK:
            nodes.append(value)
        else:
            nodes.append(value.node if isinstance(value, Tensor) else as_node(value))
            all_weak = False
    if all_weak:
        nodes = [as_node(value) for value in nodes]
    if dtype is not None:  # the parameter is the result, and tells plans apart
        return wrap(broadcast_node(op, (as_node(nodes[0]),), (*params, dtype), dtype))
    return wrap(promoted(op, nodes, params))


def apply(op: Op, *operands: Any, dtype: Any = None) -> Tensor:
    """A row over operands, with NumPy's ``dtype=`` keyword: the loop, and so the result, has it.

    Raises
    ------
    TypeError
        An operand does not cast to ``dtype`` within its kind, or the row has no such loop.
    """
    if dtype is not None:
        wanted = checked_dtype(dtype)
        operands = tuple(_for_loop(op, operand, wanted) for operand in operands)
    result = matmul(*operands) if op.kind == "matmul" else elementwise(op, *operands)
    if dtype is not None and result.dtype != wanted and op.flop_class != "compare":
        raise TypeError(f"{op.name}: NumPy has no loop for dtype={wanted}; cast the result instead")
    return result


def _for_loop(op: Op, operand: Any, wanted: DType) -> Any:
    if isinstance(operand, WEAK):
        return wrap(const(operand, wanted))
    tensor = Tensor(operand)
    if not np.can_cast(tensor.dtype, wanted, "same_kind"):
        raise TypeError(
            f"{op.name}: dtype={wanted} would change the kind of a {tensor.dtype} operand; cast it with "
            ".astype(...) first"
        )
    return cast(tensor, wanted)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """``x`` in another dtype, by NumPy's rules for unsafe casts."""
    wanted = checked_dtype(dtype)
    if x.dtype == wanted:
        return x
    return elementwise(OPS["astype"], x, dtype=wanted)


SHORTER = {2: "square", -1: "reciprocal", 0.5: "sqrt"}


def power(x: Any, exponent: Any) -> Tensor:
    """``x ** exponent``: NumPy's operator, which squares, inverts and roots without ``pow``."""
    if type(exponent) in (int, float) and isinstance(x, Tensor):
        shorter = SHORTER.get(exponent)
        if shorter is not None and x.dtype.kind in "bfc" and _is_short(x.dtype, exponent):
            return elementwise(OPS[shorter], x)
    return elementwise(OPS["pow"], x, exponent)


@lru_cache(maxsize=None, typed=True)  # 2 and 2.0 are not the same
def _is_short(dtype: DType, exponent: float) -> bool:
    """Does NumPy's operator give what the shorter way gives? Releases differ, so it is asked."""
    probe = (np.linspace(0.1, 1.9, 64) * (1 + 0.37j if dtype.kind == "c" else 1)).astype(dtype)
    try:
        result, shorter = probe**exponent, OPS[SHORTER[exponent]].function(probe)
    except ValueError:  # of bools, integers to a negative power
        return False
    return bool(result.dtype == shorter.dtype and result.tobytes() == shorter.tobytes())


def matmul(a: Any, b: Any, tile_size: int | None = None) -> Tensor:
    """Matrix product, with NumPy's rules for vectors, batches and broadcasting.

    Parameters
    ----------
    a, b : array_like
        ``(..., M, K)`` and ``(..., K, N)``; a vector is a row on the left, a column on the right.
    tile_size : int, optional
        Ask for the tiled path, with tiles of this many rows and columns.

    Raises
    ------
    ValueError
        The inner dimensions differ, an operand is a scalar, or ``tile_size`` is not positive.
    """
    left, right = as_node(a), as_node(b)
    if tile_size is not None:
        tile_size = checked_tile(tile_size)
    if not left.shape or not right.shape:
        raise ValueError(
            f"matmul: operands need at least one axis, got {left.dtype}{list(left.shape)} and "
            f"{right.dtype}{list(right.shape)}; use * for scalars"
        )
    shape = matmul_shape(left.shape, right.shape)
    _, dtype = resolve("matmul", (left.dtype, right.dtype))
    params = () if tile_size is None else (("tile_size", tile_size),)
    return wrap(make(OPS["matmul"], (left, right), params, shape, dtype, traced_line()))


def checked_tile(tile_size: Any) -> int:
    """``tile_size`` as a positive integer.

    Raises
    ------
    ValueError
        It is not one.
    """
    if isinstance(tile_size, bool) or not isinstance(tile_size, (int, np.integer)) or tile_size < 1:
        raise ValueError(f"Tile size must be at least 1 and an integer, got {tile_size!r}")
    return int(tile_size)
