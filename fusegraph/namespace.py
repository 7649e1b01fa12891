"""The public namespace: which functions there are, which are methods, which NumPy functions they serve.

In: the modules that define functions. Out: ``FUNCTIONS``, and ``Tensor`` with all of its syntax and
methods attached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from fusegraph import (
    arranging,
    contractions,
    creation,
    cumulative,
    elementwise,
    reductions,
    searching,
    shaping,
    standard,
)
from fusegraph.operations import matmul
from fusegraph.operators import attach_operators
from fusegraph.ops import ELEMENTWISE, REDUCTIONS
from fusegraph.options import current_options
from fusegraph.protocols import attach_protocols
from fusegraph.tensor import ARRAY_FUNCTIONS, Tensor, compute_tensors

MODULES = (
    elementwise, shaping, creation, reductions, searching, arranging, cumulative, contractions,
)  # fmt: skip
_HELPERS = {
    "as_tensor",
    "as_float",
    "as_integer",
    "reduced_dtype",
    "one_axis",
    "with_axes",
    "as_truth",
    "copied",
    "axis_number",
    "axis_numbers",
    "as_shape",
    "broadcast_for",
    "reduce",
}
_NO_METHOD = {
    "concat", "stack", "broadcast_arrays", "unstack", "full", "zeros", "ones", "empty", "full_like",
    "zeros_like", "ones_like", "empty_like", "arange", "linspace", "eye", "where", "isclose", "around",
    "meshgrid", "UniqueAll", "UniqueCounts", "UniqueInverse",
    "sort",  # NumPy's method sorts in place
}  # fmt: skip
_NO_ARRAY = {
    "full",
    "zeros",
    "ones",
    "empty",
    "arange",
    "linspace",
    "eye",
}  # take none: nothing to serve
_PROPERTIES = {"real", "imag"}  # as in NumPy


def _defined_in(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
        and name not in _HELPERS
    }


def _public() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = dict(elementwise.ROW_FUNCTIONS)
    for module in MODULES:
        found.update(_defined_in(module))
    found["matmul"] = matmul
    for op in (*ELEMENTWISE, *REDUCTIONS):
        for alias in op.aliases:
            found[alias] = found[op.name]
    found["concatenate"] = found["concat"]
    found["around"] = found["round"]
    return found


FUNCTIONS: dict[str, Callable[..., Any]] = _public()
"""Every function of arrays that ``fusegraph`` exports, by name."""


def _attach_methods() -> None:
    for name, function in FUNCTIONS.items():
        if name in _PROPERTIES:
            setattr(Tensor, name, property(function))
        elif name not in _NO_METHOD:
            setattr(Tensor, name, _method(function))


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Tensor, *args: Any, **keywords: Any) -> Any:
        return function(self, *args, **keywords)

    return method


def _serve_numpy() -> None:
    for name, function in FUNCTIONS.items():
        served = getattr(np, name, None)
        if callable(served) and not isinstance(served, (np.ufunc, type)) and name not in _NO_ARRAY:
            ARRAY_FUNCTIONS[served] = function
    ARRAY_FUNCTIONS[np.vecdot] = contractions.vecdot
    ARRAY_FUNCTIONS[np.can_cast] = standard.can_cast
    ARRAY_FUNCTIONS[np.result_type] = standard.result_type
    ARRAY_FUNCTIONS[np.shape] = lambda a: a.shape
    ARRAY_FUNCTIONS[np.ndim] = lambda a: a.ndim
    ARRAY_FUNCTIONS[np.size] = lambda a: a.size
    ARRAY_FUNCTIONS[np.copy] = _copy
    ARRAY_FUNCTIONS[np.clip] = _clip


def _copy(a: Any, order: str = "K", subok: bool = False) -> Tensor:
    """``np.copy`` and the method (``order`` and ``subok`` have no effect)."""
    return elementwise.copied(a)


def _flatten(self: Tensor, order: str = "C") -> Tensor:
    """A copy as one axis."""
    return elementwise.copied(shaping.ravel(self, order))


def _clip(
    a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None
) -> Tensor:
    """``np.clip``, whose bounds have two names each."""
    return elementwise.clip(a, a_min if min is None else min, a_max if max is None else max)


def _conj(self: Tensor) -> Tensor:
    """Complex conjugate; of bools the method gives bools, where the function gives int8."""
    return elementwise.copied(self) if self.dtype.kind == "b" else FUNCTIONS["conj"](self)


def _round(self: Tensor, ndigits: int | None = None) -> Tensor:
    return elementwise.round(self, ndigits or 0)


Tensor.copy = _copy  # type: ignore[attr-defined]
Tensor.flatten = _flatten  # type: ignore[attr-defined]
Tensor.T = property(shaping.transpose)  # type: ignore[attr-defined]
Tensor.__round__ = _round  # type: ignore[attr-defined]
Tensor.mT = property(shaping.matrix_transpose)  # type: ignore[attr-defined]
attach_operators()
attach_protocols()
_attach_methods()
Tensor.conj = Tensor.conjugate = _conj  # type: ignore[attr-defined]
_serve_numpy()


def compute(*tensors: Any, **changes: Any) -> Any:
    """Compute tensors in one plan: what they share runs once.

    The results are kept, and those of tensors that are computed already are returned as they are,
    whatever the options.

    Parameters
    ----------
    *tensors : Tensor
    **changes
        Options for this call, see :class:`fusegraph.options.Options`.

    Returns
    -------
    numpy.ndarray or tuple of numpy.ndarray
        One array for one tensor, a tuple for several.
    """
    arrays = compute_tensors(
        [elementwise.as_tensor(t) for t in tensors], current_options(**changes)
    )
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
