"""Contractions: products of tensors, summed over axes.

In: two tensors. Out: a tensor. ``dot`` and ``tensordot`` are one matrix product over views; ``vecdot``
is an element-wise product that is summed as it is made.
"""

from __future__ import annotations

import math
from typing import Any

from fusegraph.elementwise import ROW_FUNCTIONS, as_integer, as_tensor
from fusegraph.operations import matmul
from fusegraph.reductions import sum as total
from fusegraph.shaping import axis_number, axis_numbers, moveaxis, permute_dims, reshape
from fusegraph.tensor import Tensor, shown


def dot(a: Any, b: Any) -> Tensor:
    """NumPy's product: of numbers as ``*``, of vectors and matrices as ``@``.

    Beyond those it is the sum over the last axis of ``a`` and the last but one of ``b``.
    """
    a, b = as_tensor(a), as_tensor(b)
    if not a.ndim or not b.ndim:
        return a * b  # type: ignore[no-any-return]
    if a.ndim <= 2 and b.ndim <= 2:
        return matmul(a, b)
    return tensordot(a, b, ((-1,), (-2 if b.ndim > 1 else -1,)))


def vecdot(x1: Any, x2: Any, axis: int = -1) -> Tensor:
    """Products of vectors along an axis, summed; of complex ones with ``x1`` conjugated.

    The bits are those of ``sum(x1 * x2)``: NumPy's may come from a BLAS, which adds in another order.

    Raises
    ------
    ValueError
        The axes differ in size, or the others do not broadcast.
    """
    a, b = (_with_last(as_tensor(x), axis) for x in (x1, x2))
    if a.node.shape[-1] != b.node.shape[-1]:
        raise ValueError(
            f"vecdot: axis {axis} of {shown(a)} and of {shown(b)} differ in size; give vectors of one "
            "length"
        )
    if a.dtype.kind == "c":
        a = ROW_FUNCTIONS["conj"](a)
    product = a * b
    return total(product, -1, product.dtype)


def _with_last(x: Tensor, axis: int) -> Tensor:
    """``x`` with ``axis`` last."""
    at = axis_number("vecdot", axis, x)
    return x if at == x.ndim - 1 else moveaxis(x, at, -1)


def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Tensor:
    """Sum of products over ``axes``: a number of last and first ones, or those of each.

    Raises
    ------
    ValueError
        Axes that are summed over differ in number or size.
    """
    a, b = as_tensor(x1), as_tensor(x2)
    of_a, of_b = _summed_axes(a, b, axes)
    sizes = [tuple(x.node.shape[i] for i in over) for x, over in ((a, of_a), (b, of_b))]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"tensordot: axes {list(of_a)} of {shown(a)} and {list(of_b)} of {shown(b)} differ in size"
        )
    left = [i for i in range(a.ndim) if i not in of_a]
    right = [i for i in range(b.ndim) if i not in of_b]
    inner = math.prod(sizes[0])
    rows, columns = ([x.node.shape[i] for i in kept] for x, kept in ((a, left), (b, right)))
    matrix = reshape(permute_dims(a, (*left, *of_a)), (math.prod(rows), inner))
    other = reshape(permute_dims(b, (*of_b, *right)), (inner, math.prod(columns)))
    return reshape(matmul(matrix, other), (*rows, *columns))


def _summed_axes(a: Tensor, b: Tensor, axes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(axes, (tuple, list)):
        if len(axes) != 2:
            raise ValueError(f"tensordot: axes {axes!r}: give a number, or the axes of both")
        of_a, of_b = (
            axis_numbers("tensordot", over, x) for over, x in zip(axes, (a, b), strict=True)
        )
        if len(of_a) != len(of_b):
            raise ValueError(f"tensordot: axes {axes!r} differ in number")
        return of_a, of_b
    count = as_integer("tensordot", "axes", axes)
    if not 0 <= count <= min(a.ndim, b.ndim):
        raise ValueError(
            f"tensordot: {count} axes of {shown(a)} and {shown(b)}; give at most {min(a.ndim, b.ndim)}"
        )
    return tuple(range(a.ndim - count, a.ndim)), tuple(range(count))
