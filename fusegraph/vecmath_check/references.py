"""References: the functions in float64, in NumPy's longdouble, and in mpmath to 200 bits.

In: a function's name. Out: a callable on arrays, or the exact error of one result.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fusegraph.engines.llvm import compiler
from fusegraph.ops import OPS
from fusegraph.vecmath_check.subjects import CANCELLATION, Array, Subject

PRECISION = 200  # bits of mpmath's numbers
FORMATS = {"float32": (24, -126, 128), "float64": (53, -1022, 1024)}  # digits, least, end
GUARD = 1 << 11  # how much finer than double's longdouble must be


def extended() -> bool:
    """Is longdouble better than double here?"""
    return bool(np.finfo(np.longdouble).eps * GUARD <= np.finfo(np.float64).eps)


def numpy_function(name: str) -> Callable[..., Array]:
    """NumPy's own function of a name (SciPy's of erf)."""
    if name == "sigmoid":
        return _sigmoid
    function: Callable[..., Array] = _erf_of_scipy() if name == "erf" else OPS[name].function
    return function


def double(name: str) -> Callable[..., Array]:
    """The reference for floats: a function of arrays of float64."""
    return _OWN.get(name) or numpy_function(name)


def longdouble(name: str) -> Callable[..., Array]:
    """The reference for doubles: a function of arrays of longdouble."""
    return _OWN.get(name) or (_erf_of_libm() if name == "erf" else numpy_function(name))


@cache
def _erf_of_scipy() -> Any:
    try:
        from scipy.special import erf  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ImportError(
            "checking erf needs scipy; install it with: pip install 'fusegraph[scipy]'"
        ) from error
    return erf


def load_packages(subject: Subject) -> None:
    """Import what the references of a subject need.

    Raises
    ------
    ImportError
        A package is missing; the message says how to install it.
    """
    if subject.name == "erf":
        _erf_of_scipy()
    if subject.dtype == "float64":
        _mpmath()


# --- what NumPy has not, or not well enough -------------------------------------------------------


def _logaddexp(x: Array, y: Array) -> Array:
    """``max + log1p(exp(-|x - y|))``; NumPy's own adds the terms the other way where they cancel."""
    distance = np.where(x == y, 0, np.abs(x - y))
    return np.maximum(x, y) + np.log1p(np.exp(-distance))


def _logaddexp2(x: Array, y: Array) -> Array:
    distance = np.where(x == y, 0, np.abs(x - y))
    more: Array = np.log1p(np.exp2(-distance)) / np.log(x.dtype.type(2))
    return np.maximum(x, y) + more


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


_OWN: dict[str, Callable[..., Array]] = {
    "logaddexp": _logaddexp,
    "logaddexp2": _logaddexp2,
    "sigmoid": _sigmoid,
}

_MAP = """
define void @fg_map(ptr %f, ptr %x, ptr %y, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %from = getelementptr {type}, ptr %x, i64 %i
  %to = getelementptr {type}, ptr %y, i64 %i
  %value = load {type}, ptr %from
  %result = call {type} %f({type} %value)
  store {type} %result, ptr %to
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
_MAP_PROTOTYPE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
)


@cache
def _erf_of_libm() -> Callable[..., Array]:
    """C's erfl over an array: ctypes would hand each result over as a double."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    address = ctypes.cast(library.erfl, ctypes.c_void_p).value
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    text = _MAP.format(type="x86_fp80" if x86 else "fp128")
    over = compiler.function(_MAP_PROTOTYPE, text, "fg_map")

    def erf(x: Array) -> Array:
        x = np.ascontiguousarray(x)
        result = np.empty_like(x)
        over(address, x.ctypes.data, result.ctypes.data, x.size)
        return result

    return erf


# --- mpmath ---------------------------------------------------------------------------------------


@cache
def _mpmath() -> Any:
    try:
        import mpmath  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ImportError(
            "confirming the worst errors needs mpmath; install it with: pip install mpmath"
        ) from error
    return mpmath


def _exact(name: str, x: tuple[Any, ...]) -> Any:
    mp = _mpmath()
    own: dict[str, Callable[..., Any]] = {
        "exp2": lambda a: mp.mpf(2) ** a,
        "log2": lambda a: mp.log(a, 2),
        "log10": mp.log10,
        "cbrt": lambda a: mp.sign(a) * mp.cbrt(abs(a)),
        "pow": lambda a, b: mp.power(a, b).real,
        "sigmoid": lambda a: 1 / (1 + mp.exp(-a)),
        "logaddexp": lambda a, b: mp.log(mp.exp(a) + mp.exp(b)),
        "logaddexp2": lambda a, b: mp.log(mp.mpf(2) ** a + mp.mpf(2) ** b, 2),
    }
    return own[name](*x) if name in own else getattr(mp, name)(*x)


def exact_ulps(subject: Subject, arguments: tuple[float, ...], result: float) -> float:
    """The error of one finite result, by mpmath."""
    mp = _mpmath()
    digits, least, end = FORMATS[subject.dtype]
    # Sums of exponentials of unlike operands, and arguments near 1, need their difference's digits too.
    with mp.workprec(PRECISION if not subject.cancels else 4000):
        operands = tuple(mp.mpf(x) for x in arguments)
        value = _exact(subject.name, operands)
        most = mp.ldexp(1, end)
        value = max(min(value, most), -most)
        own = max(min(mp.mpf(result), most), -most)
        size = abs(value)
        if subject.cancels:
            size = max(size, *(abs(x) / CANCELLATION for x in operands))
        exponent = least if not size else min(max(int(mp.floor(mp.log(size, 2))), least), end - 1)
        return float(mp.ldexp(abs(own - value), digits - 1 - exponent))
