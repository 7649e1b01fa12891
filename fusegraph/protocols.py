"""NumPy's protocols on tensors: its ufuncs and functions give lazy tensors.

In: a call of NumPy's with a Tensor among its arguments. Out: what serves it, called; or the error that
names NumPy's function and what to do instead.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from fusegraph.computing import compute_into
from fusegraph.operations import apply, cast
from fusegraph.operators import become
from fusegraph.ops import OPS, REDUCTIONS, UFUNCS, Op
from fusegraph.options import current_options
from fusegraph.report.units import plural
from fusegraph.tensor import ARRAY_FUNCTIONS, Tensor, wrap
from fusegraph.views import apply_view, broadcasts

REDUCE_OF = {OPS[op.combines].function: op.function for op in REDUCTIONS if op.combines}


def _array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
    out = keywords.pop("out", None)
    if method == "reduce" and ufunc in REDUCE_OF:
        keywords.setdefault("axis", 0)
        served = ARRAY_FUNCTIONS[REDUCE_OF[ufunc]]
        result = _served(served, f"{ufunc.__name__}.reduce", inputs, keywords)
    elif ufunc in ARRAY_FUNCTIONS and method == "__call__" and out is None:  # np.vecdot
        return _served(ARRAY_FUNCTIONS[ufunc], ufunc.__name__, inputs, keywords)
    elif ufunc is np.divmod and method == "__call__" and not keywords and out is None:
        return tuple(apply(OPS[name], *inputs) for name in ("floor_divide", "remainder"))
    else:
        op = UFUNCS.get(ufunc) or _erf_row(ufunc)
        if op is None or method != "__call__" or set(keywords) - {"dtype"}:
            detail = "" if method == "__call__" else f".{method}"
            extra = f" with {', '.join(keywords)}" if keywords else ""
            raise TypeError(
                f"{ufunc.__name__}{detail}{extra} has no lazy form; call np.asarray(t) first"
            )
        result = apply(op, *inputs, **keywords)
        if out is not None:
            result = _in_shape_of(out[0], result)
    return result if out is None else _store(result, out[0])


def _array_function(
    self: Tensor, function: Any, types: Any, args: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    served = ARRAY_FUNCTIONS.get(function)
    name = f"{function.__module__}.{function.__name__}"
    if served is None:
        raise TypeError(f"{name} has no lazy form; call np.asarray(t) first")
    required = _required(function)
    while len(args) < len(required) and required[len(args)] in keywords:
        given = required[len(args)]  # by NumPy's name, which what serves it may not have
        args, keywords = (*args, keywords[given]), {k: v for k, v in keywords.items() if k != given}
    named = _from_out_on(function)
    if len(args) > named.start:  # what serves it has no ``out``, and other places from there on
        keywords = dict(zip(named.names, args[named.start :], strict=False)) | keywords
        args = args[: named.start]
    if keywords.get("out", self) is None:  # NumPy's default, written out
        keywords = {k: v for k, v in keywords.items() if k != "out"}
    return _served(served, name, args, keywords)


@cache
def _required(function: Any) -> tuple[str, ...]:
    """The leading parameters of a NumPy function that have no default."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # it is not written in Python
        return ()
    plain = takewhile(
        lambda p: p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty, parameters.values()
    )
    return tuple(p.name for p in plain)


class _Places(NamedTuple):
    """Names of positional parameters from place ``start`` on."""

    start: int
    names: tuple[str, ...]


@cache
def _from_out_on(function: Any) -> _Places:
    """The parameters of a NumPy function from ``out`` on; none where it has no ``out``."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # it is not written in Python
        return _Places(sys.maxsize, ())
    names = tuple(name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)
    start = names.index("out") if "out" in names else sys.maxsize
    return _Places(start, names[start:])


def _in_shape_of(out: Any, result: Tensor) -> Tensor:
    """``result`` as often as a larger ``out`` takes it; as it is where it does not fit."""
    if out.shape == result.shape or not broadcasts(result.shape, out.shape):
        return result
    return wrap(apply_view("broadcast", out.shape, result.node))


def _store(result: Tensor, out: Any) -> Any:
    """``out=`` of a ufunc: a tensor is pointed at the result, an array is written."""
    if isinstance(out, Tensor):
        become(out, result)
        return out
    if not np.can_cast(result.dtype, out.dtype, "same_kind"):
        raise TypeError(
            f"out: dtype {out.dtype} cannot hold {result.dtype}; give an array of {result.dtype}"
        )
    return compute_into(cast(result, out.dtype).node, out, current_options(), apart=False)


def _served(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    """A call of what serves a NumPy function.

    Raises
    ------
    TypeError
        It takes no such argument; the message names NumPy's function and the argument.
    """
    try:
        return function(*args, **keywords)
    except TypeError:
        signature = inspect.signature(function)
        try:
            signature.bind(*args, **keywords)
        except TypeError:
            unknown = [k for k in keywords if k not in signature.parameters]
            given = ", ".join(unknown) or plural(len(args) + len(keywords), "argument")
            raise TypeError(
                f"{name} with {given} has no lazy form; call np.asarray(t) first"
            ) from None
        raise


def _erf_row(ufunc: Any) -> Op | None:
    return OPS["erf"] if getattr(ufunc, "__name__", "") == "erf" else None


def attach_protocols() -> None:
    """Let NumPy ask ``Tensor`` what serves its functions."""
    Tensor.__array_ufunc__ = _array_ufunc
    Tensor.__array_function__ = _array_function
