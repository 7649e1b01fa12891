"""Element-wise functions: one for each row of the op table, and what is written in terms of them.

In: tensors, arrays, scalars. Out: tensors. ``ROW_FUNCTIONS`` maps every row name and alias to its
function; the rest of the module needs no row.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fusegraph.arrays import checked_device
from fusegraph.operations import apply, cast, elementwise
from fusegraph.ops import ELEMENTWISE, OPS, Op, promote
from fusegraph.promotion import WEAK
from fusegraph.tensor import Tensor

MOST_DECIMALS = 308  # 10**309 is no float64
_OPERANDS = {1: "x", 2: "x1, x2", 3: "condition, x, y"}


def _row_function(op: Op) -> Callable[..., Tensor]:
    def function(*operands: Any, dtype: Any = None) -> Tensor:
        if len(operands) != op.arity:
            raise TypeError(
                f"{op.name}({_OPERANDS[op.arity]}) takes {op.arity}, got {len(operands)}"
            )
        return apply(op, *operands, dtype=dtype)

    function.__signature__ = _signature(op)  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = op.name
    function.__module__ = __name__
    function.__doc__ = (
        f"{op.name}({_OPERANDS[op.arity]}, dtype=None): element-wise, with NumPy's dtype and "
        f"broadcast shape.\n\nReads as ``{op.text.format('x1', 'x2', 'x3')}`` in plans; "
        + ("bit-identical to NumPy." if not op.ulp else f"within {op.ulp} ulp of NumPy.")
    )
    return function


def _signature(op: Op) -> inspect.Signature:
    """What a row's function takes: its operands by position, and ``dtype``."""
    names = _OPERANDS[op.arity].split(", ")
    operands = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
    dtype = inspect.Parameter("dtype", inspect.Parameter.KEYWORD_ONLY, default=None)
    return inspect.Signature([*operands, dtype])


ROW_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: function
    for op in ELEMENTWISE
    if op.name not in ("astype", "where")
    for function in [_row_function(op)]
    for name in (op.name, *op.aliases)
}


def as_tensor(x: Any) -> Tensor:
    """``x`` itself if it is a tensor, else a lazy tensor over it."""
    return x if isinstance(x, Tensor) else Tensor(x)


def as_float(x: Any) -> Tensor:
    """``x`` as a tensor of floats: bools and integers as float64, in which no difference wraps."""
    t = as_tensor(x)
    return cast(t, float) if t.dtype.kind in "biu" else t


def where(condition: Any, x: Any, y: Any) -> Tensor:
    """``x`` where ``condition`` is true, else ``y``; dtype by promotion of ``x`` and ``y``."""
    return elementwise(OPS["where"], as_truth(condition), x, y)


def as_truth(condition: Any) -> Tensor:
    """A condition as bool."""
    return cast(as_tensor(condition), bool)


def copied(x: Any) -> Tensor:
    """``x`` as an operation, so that its value is never the array that was given."""
    t = as_tensor(x)
    return elementwise(OPS["astype"], t, dtype=t.dtype)


def astype(x: Any, dtype: Any, copy: bool = True, device: Any = None) -> Tensor:
    """``x`` in another dtype, by NumPy's rules; ``copy=False`` gives ``x`` itself where it has it."""
    checked_device(device)
    t = as_tensor(x)
    result = cast(t, dtype)
    return copied(t) if result is t and copy else result


def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """``x`` held between ``min`` and ``max``; None is no bound; NaN stays.

    A Python integer that bounds nothing of an integer dtype is no bound.
    """
    t = result = as_tensor(x)
    both = min is not None and max is not None
    if both:  # NumPy promotes all three at once
        result = cast(t, promote((t.dtype, _kind_of(min), _kind_of(max))))
    # Where a bound equals what it bounds (zeros of two signs), maximum takes its second operand.
    turned = both and result.dtype.char in "fd" and _is_one(min) and _is_one(max)
    turned = turned and _keeps_equals()
    if result.dtype.kind in "iu":
        info = np.iinfo(result.dtype)
        min = None if type(min) is int and min <= info.min else min
        max = None if type(max) is int and max >= info.max else max
    if min is not None:
        result = elementwise(OPS["maximum"], *((min, result) if turned else (result, min)))
    if max is not None:
        result = elementwise(OPS["minimum"], *((max, result) if turned else (result, max)))
    return copied(t) if result is t else result


def _kind_of(value: Any) -> Any:
    """What promotion looks at: the type of a weak number, or a dtype."""
    return type(value) if type(value) in WEAK else as_tensor(value).dtype


def _is_one(value: Any) -> bool:
    return type(value) in WEAK or as_tensor(value).node.size == 1


@cache
def _keeps_equals() -> bool:
    """Does NumPy's clip between two numbers keep what equals one of them?"""
    return bool(np.signbit(np.clip(np.full(16, -0.0), 0.0, 1.0)).all())


def as_integer(function: str, name: str, value: Any) -> int:
    """A parameter that is a whole number; the error names the function and the parameter."""
    try:
        return operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{function}: {name} is of type {kind}; give an integer") from None


def round(x: Any, decimals: int = 0) -> Tensor:
    """``x`` rounded to ``decimals``, halves to even, by NumPy's steps.

    Raises
    ------
    TypeError
        ``decimals`` is no integer, or it is not 0 and ``x`` is complex or bool.
    ValueError
        ``decimals`` is beyond what a power of ten in float64 can scale by.
    """
    t, decimals = as_tensor(x), as_integer("round", "decimals", decimals)
    if t.dtype.kind in "iu" and decimals >= 0:
        return copied(t)
    if decimals and t.dtype.kind not in "fiu":
        raise TypeError(f"round: decimals={decimals} needs a real number dtype, got {t.dtype}")
    if not decimals:
        return _call("rint", t)
    if abs(decimals) > MOST_DECIMALS:
        raise ValueError(f"round: decimals={decimals} is beyond +-{MOST_DECIMALS}")
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return _call("rint", t * scale) / scale
    return cast(_call("rint", t / scale) * scale, t.dtype)


def isclose(
    a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False
) -> Tensor:
    """``|a - b| <= atol + rtol * |b|`` where ``b`` is finite, or ``a == b``.

    NaN is close to nothing, or to NaN where ``equal_nan`` says so.
    """
    a, b = as_tensor(a), as_float(b)
    close: Tensor = abs(a - b) <= atol + rtol * abs(b)
    close = _call("logical_or", _call("logical_and", close, _call("isfinite", b)), a == b)
    if equal_nan:
        both = _call("logical_and", _call("isnan", a), _call("isnan", b))
        close = _call("logical_or", close, both)
    return close


# --- activations ----------------------------------------------------------------------------------


def _call(name: str, *operands: Any) -> Tensor:
    return elementwise(OPS[name], *operands)


def sigmoid(x: Any) -> Tensor:
    """``1 / (1 + exp(-x))``; integers count as float64."""
    return 1 / (1 + _call("exp", -as_float(x)))


def silu(x: Any) -> Tensor:
    """``x / (1 + exp(-x))`` (Elfwing, Uchibe and Doya 2018); integers count as float64."""
    t = as_float(x)
    return t / (1 + _call("exp", -t))


def relu(x: Any) -> Tensor:
    """``maximum(x, 0)``; NaN stays."""
    return _call("maximum", x, 0)


def gelu(x: Any, approximate: str = "tanh") -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016); integers count as float64.

    Parameters
    ----------
    x : array_like
    approximate : {"tanh", "none"}
        ``tanh``: ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``; ``none``: by ``erf``, which
        needs scipy.
    """
    t = as_float(x)
    if approximate == "tanh":
        cube = t * t * t
        return 0.5 * t * (1 + _call("tanh", math.sqrt(2 / math.pi) * (t + 0.044715 * cube)))
    if approximate == "none":
        return 0.5 * t * (1 + _call("erf", t * math.sqrt(0.5)))
    raise ValueError(f"gelu: approximate={approximate!r}: choose 'tanh' or 'none'")


def softplus(x: Any) -> Tensor:
    """``log(1 + exp(x))``, as ``maximum(x, 0) + log1p(exp(-|x|))``, which does not overflow.

    Integers count as float64.
    """
    x = as_float(x)
    return _call("maximum", x, 0) + _call("log1p", _call("exp", -abs(x)))


def mish(x: Any) -> Tensor:
    """``x tanh(softplus(x))`` (Misra 2019); integers count as float64."""
    t = as_float(x)
    return t * _call("tanh", softplus(t))


def hardswish(x: Any) -> Tensor:
    """``x min(max(x + 3, 0), 6) / 6`` (Howard et al. 2019); integers count as float64."""
    t = as_float(x)
    return t * clip(t + 3, 0, 6) / 6
