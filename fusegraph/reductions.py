"""Reductions, and what is written in terms of them.

In: tensors. Out: tensors. ``mean``, ``var`` and ``std`` take NumPy's own steps, so their values are
NumPy's up to the order of sums; ``max`` and ``min`` propagate NaN. Sums of floats are NumPy's bits where
bits are kept, and within the bound of pairwise sums elsewhere.
"""

from __future__ import annotations

import builtins
import math
from functools import lru_cache
from typing import Any

import numpy as np

from fusegraph.arrays import checked_dtype
from fusegraph.elementwise import ROW_FUNCTIONS, as_float, as_tensor, where
from fusegraph.graph import DType, make, size_const
from fusegraph.operations import cast, elementwise
from fusegraph.ops import OPS
from fusegraph.shaping import axis_number, axis_numbers, squeeze
from fusegraph.sources import traced_line
from fusegraph.tensor import Tensor, shown, wrap


def _has_identity(name: str) -> bool:
    """Does a reduction of nothing have a value?"""
    combines = OPS[name].combines
    return bool(combines) and getattr(OPS[combines].function, "identity", None) is not None


@lru_cache(maxsize=1024)
def reduced_dtype(name: str, dtype: DType, wanted: DType | None) -> DType:
    """What a reduction row makes of a dtype, or of the one that is ``wanted``: NumPy is asked."""
    keywords = {} if wanted is None else {"dtype": wanted}
    result = OPS[name].function(np.ones(1, dtype), **keywords)
    return np.asarray(result).dtype


def reduce(
    name: str, x: Any, axis: Any, keepdims: Any, dtype: Any = None, caller: str = ""
) -> Tensor:
    """A reduction row over one axis, several, or all (None); errors name ``caller``, if given.

    Raises
    ------
    TypeError
        ``axis`` or ``keepdims`` is of the wrong type.
    numpy.exceptions.AxisError
        There is no such axis.
    ValueError
        The reduced axes are empty and the row has no identity.
    """
    x = as_tensor(x)
    axes = _axes(caller or name, x, axis if caller else _of_ufunc(x, axis))
    if not (keepdims is None or isinstance(keepdims, (int, np.bool_))):  # NumPy's third is ``out``
        raise TypeError(
            f"{caller or name}: keepdims is of type {type(keepdims).__name__}; give True or False"
        )
    shape = tuple(
        1 if a in axes else n for a, n in enumerate(x.node.shape) if keepdims or a not in axes
    )
    if not _has_identity(name) and not math.prod(x.node.shape[a] for a in axes):
        raise ValueError(
            f"{caller or name}: axes {list(axes)} of {shown(x)} are empty, so there is no {name}; "
            "reduce axes that have elements"
        )
    wanted = None if dtype is None else checked_dtype(dtype)
    result = reduced_dtype(name, x.dtype, wanted)
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
    axis = _of_ufunc(x, axis)
    single = None if axis is None else axis_number(name, axis, x)
    found = reduce(name, x, axis, keepdims)
    params = (("axis", single), ("keepdims", bool(keepdims)))
    shape, dtype = found.node.shape, found.dtype
    return wrap(make(OPS[name], (x.node,), params, shape, dtype, traced_line()))


# --- mean, variance: NumPy's steps ----------------------------------------------------------------


def _of_ufunc(x: Tensor, axis: Any) -> Any:
    """``axis`` as NumPy's ufuncs take it, and its mean does not: a 0-d array has 0 and -1 too."""
    return None if not x.ndim and isinstance(axis, int) and axis in (0, -1) else axis


def _axes(name: str, x: Tensor, axis: Any) -> tuple[int, ...]:
    """The axes that ``axis`` means; errors name the function."""
    return tuple(range(x.ndim)) if axis is None else axis_numbers(name, axis, x)


def _count(x: Tensor, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[a] for a in axes)


def _divided(total: Tensor, count: float) -> Tensor:
    """``total / count`` in the dtype of ``total``; NumPy divides by a 64-bit integer."""
    kind = np.dtype(np.intp) if isinstance(count, int) else np.dtype(float)
    return cast(elementwise(OPS["divide"], total, wrap(size_const(count, kind))), total.dtype)


def mean(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean. Integers are averaged in float64, float16 in float32."""
    return _mean("mean", x, axis, dtype, keepdims)


def _mean(name: str, x: Any, axis: Any, dtype: Any, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    axes = _axes(name, x, axis)
    work = dtype
    if dtype is None:
        work = (
            np.float64 if x.dtype.kind in "biu" else np.float32 if x.dtype == np.float16 else None
        )
    # Reduced with its axes kept: mean and var of one x share the sum.
    average = _divided(reduce("sum", x, axes, True, work, name), _count(x, axes))
    if dtype is None and x.dtype == np.float16:
        average = cast(average, x.dtype)
    return average if keepdims else squeeze(average, axes)


def var(
    x: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: bool = False,
    correction: float | None = None,
) -> Tensor:  # fmt: skip
    """Variance: mean squared distance from the mean, over ``count - correction``.

    Two passes, as NumPy takes them: no cancellation of large means.

    Raises
    ------
    ValueError
        ``correction`` and ``ddof`` are both given: they are two names of one number.
    """
    return _variance("var", x, axis, dtype, _correction("var", ddof, correction), keepdims)


def _correction(name: str, ddof: float, correction: float | None) -> float:
    if correction is None:
        return ddof
    if ddof != 0:
        raise ValueError(
            f"{name}: ddof={ddof} and correction={correction} are two names of one number; give one"
        )
    return correction


def _variance(name: str, x: Any, axis: Any, dtype: Any, less: float, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    axes = _axes(name, x, axis)
    work = np.float64 if dtype is None and x.dtype.kind in "biu" else dtype
    centre = _divided(reduce("sum", x, axes, True, work, name), _count(x, axes))
    away = x - centre
    if away.dtype.kind == "c" and x.dtype.kind not in "fiu":  # those NumPy squares, complex or not
        real, imag = ROW_FUNCTIONS["real"](away), ROW_FUNCTIONS["imag"](away)
        squares = real * real + imag * imag
    else:
        squares = away * away
    total = reduce("sum", squares, axes, keepdims, work, name)
    return _divided(total, builtins.max(_count(x, axes) - less, 0))


def std(
    x: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: bool = False,
    correction: float | None = None,
) -> Tensor:  # fmt: skip
    """Square root of the variance.

    Raises
    ------
    TypeError
        ``dtype`` cannot hold the square roots of an array.
    ValueError
        ``correction`` and ``ddof`` are both given: they are two names of one number.
    """
    spread = _variance("std", x, axis, dtype, _correction("std", ddof, correction), keepdims)
    root = elementwise(OPS["sqrt"], spread)
    if root.dtype == spread.dtype:
        return root
    if spread.ndim:
        raise TypeError(
            f"std: dtype={spread.dtype} cannot hold the square roots of {shown(spread)}; "
            "give a float dtype"
        )
    return cast(root, spread.dtype)  # of one number, as NumPy


# --- rows -----------------------------------------------------------------------------------------


def softmax(x: Any, axis: Any = -1) -> Tensor:
    """``exp(x - max) / sum(exp(x - max))`` along an axis; integers count as float64."""
    x = as_float(x)
    axes = _axes("softmax", x, axis)
    e = elementwise(OPS["exp"], x - reduce("max", x, axes, True, caller="softmax"))
    return e / reduce("sum", e, axes, True)


def log_softmax(x: Any, axis: Any = -1) -> Tensor:
    """Logarithm of :func:`softmax`, without the underflow; integers count as float64."""
    t = as_float(x)
    axes = _axes("log_softmax", t, axis)
    shifted = t - reduce("max", t, axes, True, caller="log_softmax")
    total = reduce("sum", elementwise(OPS["exp"], shifted), axes, True)
    return shifted - elementwise(OPS["log"], total)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """``log(sum(exp(x)))``, without overflow; rows of ``-inf`` give ``-inf``.

    Integers count as float64.
    """
    x = as_float(x)
    axes = _axes("logsumexp", x, axis)
    top = reduce("max", x, axes, True, caller="logsumexp")
    top = where(ROW_FUNCTIONS["isfinite"](top), top, 0)
    total = reduce("sum", elementwise(OPS["exp"], x - top), axes, keepdims, caller="logsumexp")
    if not keepdims:
        top = squeeze(top, axes)
    return elementwise(OPS["log"], total) + top


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, axis: Any = -1, eps: float = 1e-5
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` along axes (Ba, Kiros and Hinton 2016).

    Integers count as float64.
    """
    x = as_float(x)
    away = x - _mean("layer_norm", x, axis, None, True)
    scale = elementwise(OPS["sqrt"], _mean("layer_norm", away * away, axis, None, True) + eps)
    return _scaled(away / scale, weight, bias)


def rms_norm(x: Any, weight: Any = None, axis: Any = -1, eps: float = 1e-5) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` along axes (Zhang and Sennrich 2019).

    Integers count as float64.
    """
    x = as_float(x)
    scale = elementwise(OPS["sqrt"], _mean("rms_norm", x * x, axis, None, True) + eps)
    return _scaled(x / scale, weight, None)


def _scaled(x: Tensor, weight: Any, bias: Any) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias
