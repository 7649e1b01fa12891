"""Reductions, and what is written in terms of them.

In: tensors. Out: tensors. ``mean``, ``var`` and ``std`` take NumPy's own steps, so their values are
NumPy's; ``max`` and ``min`` propagate NaN; sums are NumPy's pairwise sums.
"""

from __future__ import annotations

import builtins
import math
from functools import lru_cache
from typing import Any

import numpy as np

from fusegraph.elementwise import ROW_FUNCTIONS, as_tensor, where
from fusegraph.graph import DType, const, make
from fusegraph.ops import OPS
from fusegraph.shaping import axis_number, axis_numbers, squeeze
from fusegraph.tensor import Tensor, cast, checked_dtype, elementwise, traced_line, wrap

_NO_IDENTITY = ("max", "min", "argmax", "argmin")


@lru_cache(maxsize=1024)
def _result_dtype(name: str, dtype: DType, wanted: DType | None) -> DType:
    keywords = {} if wanted is None else {"dtype": wanted}
    result = OPS[name].function(np.ones(1, dtype), **keywords)
    return np.asarray(result).dtype


def reduce(name: str, x: Any, axis: Any, keepdims: bool, dtype: Any = None) -> Tensor:
    """A reduction row over one axis, several, or all (None).

    Raises
    ------
    numpy.exceptions.AxisError
        There is no such axis.
    ValueError
        The reduced axes are empty and the row has no identity.
    """
    x = as_tensor(x)
    axes = tuple(range(x.ndim)) if axis is None else axis_numbers(name, axis, x.ndim)
    shape = tuple(
        1 if a in axes else n for a, n in enumerate(x.node.shape) if keepdims or a not in axes
    )
    if name in _NO_IDENTITY and not math.prod(x.node.shape[a] for a in axes):
        raise ValueError(
            f"{name}: axes {list(axes)} of {list(x.shape)} are empty; there is no {name}"
        )
    wanted = None if dtype is None else checked_dtype(dtype)
    result = _result_dtype(name, x.dtype, wanted)
    params: tuple[Any, ...] = (("axis", axes), ("keepdims", bool(keepdims)))
    if wanted is not None:
        params = (*params, ("dtype", wanted))
    return wrap(make(OPS[name], (x.node,), params, shape, result, traced_line()))


def sum(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over axes; bools and small integers add up in the platform integer, as in NumPy."""
    return reduce("sum", x, axis, keepdims, dtype)


def prod(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Product over axes."""
    return reduce("prod", x, axis, keepdims, dtype)


def max(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Largest value; NaN if there is one."""
    return reduce("max", x, axis, keepdims)


def min(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Smallest value; NaN if there is one."""
    return reduce("min", x, axis, keepdims)


def any(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Is any element true?"""
    return reduce("any", x, axis, keepdims)


def all(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Is every element true?"""
    return reduce("all", x, axis, keepdims)


def argmax(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Index of the first largest value (of the first NaN, if there is one)."""
    return _arg_reduce("argmax", x, axis, keepdims)


def argmin(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Index of the first smallest value (of the first NaN, if there is one)."""
    return _arg_reduce("argmin", x, axis, keepdims)


def _arg_reduce(name: str, x: Any, axis: Any, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    single = None if axis is None else axis_number(name, axis, x.ndim)
    found = reduce(name, x, axis, keepdims)
    params = (("axis", single), ("keepdims", bool(keepdims)))
    shape, dtype = found.node.shape, found.dtype
    return wrap(make(OPS[name], (x.node,), params, shape, dtype, traced_line()))


# --- mean, variance: NumPy's steps ----------------------------------------------------------------


def _count(x: Tensor, axis: Any) -> int:
    axes = range(x.ndim) if axis is None else axis_numbers("mean", axis, x.ndim)
    return math.prod(x.shape[a] for a in axes)


def _without(x: Tensor, name: str, axis: Any) -> Tensor:
    """``x`` without its reduced axes."""
    return squeeze(x, tuple(range(x.ndim)) if axis is None else axis_numbers(name, axis, x.ndim))


def _divided(total: Tensor, count: float) -> Tensor:
    """``total / count`` in the dtype of ``total``; NumPy divides by a 64-bit integer."""
    kind = np.dtype(np.intp) if isinstance(count, int) else np.dtype(float)
    return cast(elementwise(OPS["divide"], total, wrap(const(count, kind))), total.dtype)


def mean(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean. Integers are averaged in float64, float16 in float32."""
    x = as_tensor(x)
    work = dtype
    if dtype is None:
        work = (
            np.float64 if x.dtype.kind in "biu" else np.float32 if x.dtype == np.float16 else None
        )
    # Reduced with its axes kept: mean and var of one x share the sum.
    average = _divided(reduce("sum", x, axis, True, work), _count(x, axis))
    if dtype is None and x.dtype == np.float16:
        average = cast(average, x.dtype)
    return average if keepdims else _without(average, "mean", axis)


def var(
    x: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: bool = False,
    correction: float | None = None,
) -> Tensor:  # fmt: skip
    """Variance: mean squared distance from the mean, over ``count - correction``.

    Two passes, as NumPy takes them: no cancellation of large means.
    """
    x = as_tensor(x)
    less = ddof if correction is None else correction
    work = np.float64 if dtype is None and x.dtype.kind in "biu" else dtype
    centre = _divided(reduce("sum", x, axis, True, work), _count(x, axis))
    away = x - centre
    if away.dtype.kind == "c":
        real, imag = ROW_FUNCTIONS["real"](away), ROW_FUNCTIONS["imag"](away)
        squares = real * real + imag * imag
    else:
        squares = away * away
    total = reduce("sum", squares, axis, keepdims, None if away.dtype.kind == "c" else work)
    return _divided(total, builtins.max(_count(x, axis) - less, 0))


def std(
    x: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: bool = False,
    correction: float | None = None,
) -> Tensor:  # fmt: skip
    """Square root of the variance."""
    return elementwise(OPS["sqrt"], var(x, axis, dtype, ddof, keepdims, correction))


# --- rows -----------------------------------------------------------------------------------------


def softmax(x: Any, axis: Any = -1) -> Tensor:
    """``exp(x - max) / sum(exp(x - max))`` along an axis."""
    x = as_tensor(x)
    e = elementwise(OPS["exp"], x - max(x, axis, keepdims=True))
    return e / sum(e, axis, keepdims=True)


def log_softmax(x: Any, axis: Any = -1) -> Tensor:
    """Logarithm of :func:`softmax`, without the underflow."""
    t = as_tensor(x)
    shifted = t - max(t, axis, keepdims=True)
    total = sum(elementwise(OPS["exp"], shifted), axis, keepdims=True)
    return shifted - elementwise(OPS["log"], total)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """``log(sum(exp(x)))``, without overflow; rows of ``-inf`` give ``-inf``."""
    x = as_tensor(x)
    top = max(x, axis, keepdims=True)
    top = where(ROW_FUNCTIONS["isfinite"](top), top, 0)
    total = sum(elementwise(OPS["exp"], x - top), axis, keepdims=keepdims)
    if not keepdims:
        axes = tuple(range(x.ndim)) if axis is None else axis_numbers("logsumexp", axis, x.ndim)
        top = squeeze(top, axes)
    return elementwise(OPS["log"], total) + top


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, axis: Any = -1, eps: float = 1e-5
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` along axes (Ba, Kiros and Hinton 2016)."""
    x = as_tensor(x)
    away = x - mean(x, axis, keepdims=True)
    scale = elementwise(OPS["sqrt"], mean(away * away, axis, keepdims=True) + eps)
    return _scaled(away / scale, weight, bias)


def rms_norm(x: Any, weight: Any = None, axis: Any = -1, eps: float = 1e-5) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` along axes (Zhang and Sennrich 2019)."""
    x = as_tensor(x)
    scale = elementwise(OPS["sqrt"], mean(x * x, axis, keepdims=True) + eps)
    return _scaled(x / scale, weight, None)


def _scaled(x: Tensor, weight: Any, bias: Any) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias
