"""The suite: which functions, on which sizes and dtypes.

Out: ``SUITE``, a tuple of ``Row``. A row is a function of ``functions``, the shapes and dtype of its
arrays, and how far from NumPy's result another one may be. Arrays are the same in every process: they
come from a fixed seed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from fusegraph.bench import functions as f

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

CACHED, LARGE, HUGE = 100_000, 4_000_000, 32_000_000  # elements: in cache, in memory
LABELS = {CACHED: "100k", LARGE: "4M", HUGE: "32M"}
BLOCK = 1 << 16  # elements that are compared at once
# Of an element beside NumPy's, relative to its size plus the mean size. Sums are in another order,
# functions are others; bfloat16 or a wrong mask would be 1e-3 and more.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11, "int32": 0.0}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the suite.

    Attributes
    ----------
    name : str
        ``function-dtype-size``.
    group : str
        ``element-wise``, ``transcendental``, ``reductions``, ``rows``, ``products`` or ``attention``.
    function : callable
        Takes a namespace and the arrays.
    shapes : tuple of tuple of int
        One an array.
    dtype : str
    values : tuple of float
        Least and largest; they are spread evenly.
    near_copy : bool
        Is it required to be within 1.3 times of a copy of its bytes?
    """

    name: str
    group: str
    function: Callable[..., Any]
    shapes: tuple[Shape, ...]
    dtype: str
    values: tuple[float, float] = (-3.0, 3.0)
    near_copy: bool = False

    @property
    def tolerance(self) -> float:
        """The error that a result may have, see :func:`error_of`."""
        return TOLERANCE[self.dtype]

    @property
    def arguments(self) -> list[str]:
        """What the function calls its arrays."""
        return list(inspect.signature(self.function).parameters)[1:]

    @property
    def elements(self) -> int:
        """Of the largest argument."""
        return max(map(math.prod, self.shapes))

    def arrays(self) -> list[Array]:
        """The arguments."""
        rng = np.random.default_rng(7)
        return [self._array(rng, shape) for shape in self.shapes]

    def _array(self, rng: np.random.Generator, shape: Shape) -> Array:
        low, high = self.values
        if self.dtype.startswith("int"):
            return rng.integers(int(low), int(high), shape, self.dtype)
        array = rng.random(shape, np.dtype(self.dtype).type)
        array *= high - low
        array += low
        return array

    def results(self, arrays: Sequence[Array]) -> list[Array]:
        """What eager NumPy gives."""
        with np.errstate(all="ignore"):
            return as_list(self.function(np, *arrays))

    def shrunk(self, most: int = 16) -> Row:
        """The same with no axis longer than ``most``: what a test can afford."""
        shapes = tuple(tuple(min(n, most) for n in shape) for shape in self.shapes)
        return replace(self, shapes=shapes)


def as_list(results: Any) -> list[Any]:
    """One result, or several, as a list."""
    return list(results) if isinstance(results, (tuple, list)) else [results]


def error_of(results: Sequence[Any], expected: Sequence[Any]) -> float:
    """Largest distance of an element from NumPy's, relative to its size plus the mean size.

    Another shape, dtype or number of results is infinitely far, and so is NaN beside a number.
    """
    if len(results) != len(expected):
        return math.inf
    return max(_error(np.asarray(a), np.asarray(b)) for a, b in zip(results, expected, strict=True))


def _error(a: Array, b: Array) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    a, b = a.reshape(-1), b.reshape(-1)
    typical = np.mean(np.abs(b[:BLOCK]), dtype=float).astype(b.dtype) or b.dtype.type(1)
    starts = range(0, a.size, BLOCK)
    return max((_worst(a[s : s + BLOCK], b[s : s + BLOCK], typical) for s in starts), default=0.0)


def _worst(a: Array, b: Array, typical: Any) -> float:
    """The error of a block, in its own dtype: 32,000,000 elements took 0.17 s, in float64 1 s."""
    with np.errstate(all="ignore"):
        if a.dtype.kind == "f":
            worst = float(np.max(np.abs(a - b) / (np.abs(b) + typical)))
            if math.isfinite(worst):
                return worst
        wide, other = a.astype(float), b.astype(float)
        apart = np.abs(wide - other) / (np.abs(other) + float(typical))
    apart[(wide == other) | (np.isnan(wide) & np.isnan(other))] = 0.0
    return float(np.max(np.nan_to_num(apart, nan=math.inf)))


# --- rows -----------------------------------------------------------------------------------------


def _row(group: str, function: Any, dtype: str, label: str, *shapes: Shape, **more: Any) -> Row:
    return Row(f"{function.__name__}-{dtype}-{label}", group, function, shapes, dtype, **more)


def _flat(
    group: str, function: Any, arity: int, sizes: Sequence[int], dtype: str = "float32", **more: Any
) -> list[Row]:
    """A row for each size, over ``arity`` vectors; those of 32,000,000 float32 compete with a copy."""
    return [
        _row(
            group, function, dtype, LABELS[size], *[(size,)] * arity,
            near_copy=size == HUGE, **more,
        )
        for size in sizes
    ]  # fmt: skip


def _elementwise() -> list[Row]:
    name, positive = "element-wise", (0.1, 2.0)
    return [
        *_flat(name, f.add, 2, [LARGE]),
        *_flat(name, f.triad, 2, [CACHED, HUGE]),
        *_flat(name, f.triad, 2, [LARGE], "float64"),
        *_flat(name, f.hardswish, 1, [CACHED, HUGE]),
        *_flat(name, f.polynomial, 1, [HUGE]),
        *_flat(name, f.polynomial, 1, [LARGE], "float64"),
        *_flat(name, f.adam, 4, [CACHED, HUGE], values=positive),
        *_flat(name, f.clamp_select, 2, [LARGE]),
        _row(name, f.column_bias, "float32", "4000x1000", (4000, 1000), (1000,), (1000,)),
        *_flat(name, f.integers, 2, [LARGE], "int32", values=(-1000, 1000)),
    ]


def _transcendental() -> list[Row]:
    name, prices = "transcendental", (0.5, 2.0)
    return [
        *_flat(name, f.gelu, 1, [CACHED, LARGE, HUGE]),
        *_flat(name, f.gelu, 1, [LARGE], "float64"),
        *_flat(name, f.sigmoid, 1, [LARGE]),
        *_flat(name, f.softplus, 1, [LARGE]),
        *_flat(name, f.exp, 1, [CACHED], "float64"),
        *_flat(name, f.distance, 2, [LARGE]),
        *_flat(name, f.black_scholes, 3, [CACHED], values=prices),
        *_flat(name, f.black_scholes, 3, [LARGE], "float64", values=prices),
    ]


def _reductions() -> list[Row]:
    name = "reductions"
    return [
        *_flat(name, f.squared_error, 2, [CACHED]),
        *_flat(name, f.squared_error, 2, [LARGE], "float64"),
        _row(name, f.column_mean, "float32", "4000x1000", (4000, 1000), values=(0.0, 3.0)),
        *_flat(name, f.extremes, 1, [LARGE]),
        *_flat(name, f.normalise, 1, [LARGE]),
    ]


def _rows() -> list[Row]:
    name, wide = "rows", (4096, 1024)
    return [
        _row(name, f.softmax, "float32", "4096x1024", wide),
        _row(name, f.softmax, "float32", "400000x10", (400_000, 10)),
        _row(name, f.softmax, "float64", "500x200", (500, 200)),
        _row(name, f.log_softmax, "float32", "4096x1024", wide),
        _row(name, f.layer_norm, "float32", "4096x1024", wide, (1024,), (1024,)),
        _row(name, f.rms_norm, "float32", "4096x1024", wide, (1024,)),
    ]


def _products() -> list[Row]:
    name, points, one = "products", (2000, 3), (-1.0, 1.0)
    return [
        _row(name, f.product, "float32", "1024x1024", (1024, 1024), (1024, 1024), values=one),
        _row(
            name, f.layer, "float32", "2048x768x3072", (2048, 768), (768, 3072), (3072,), values=one
        ),
        _row(name, f.pairwise, "float64", "2000x2000x3", points, points),
    ]


def _attention() -> list[Row]:
    return [
        _row("attention", f.attention, "float32", "4096x64", *[(4096, 64)] * 3),
        _row("attention", f.attention, "float32", "8x12x256x64", *[(8, 12, 256, 64)] * 3),
    ]


SUITE: tuple[Row, ...] = (
    *_elementwise(), *_transcendental(), *_reductions(), *_rows(), *_products(), *_attention()
)  # fmt: skip

# Every process runs it first, in every way: threads are up, modules are loaded.
WARM_UP = _row("warm-up", f.sigmoid, "float32", "60000", (60_000,))


def find_row(name: str) -> Row:
    """The row of that name.

    Raises
    ------
    KeyError
        There is none.
    """
    for row in (*SUITE, WARM_UP):
        if row.name == name:
            return row
    raise KeyError(name)


def matching_rows(patterns: Sequence[str]) -> tuple[Row, ...]:
    """Rows whose name or group matches one of the patterns; all where there are none.

    Raises
    ------
    ValueError
        A pattern matches nothing.
    """
    if not patterns:
        return SUITE
    for pattern in patterns:
        if not any(_matches(row, pattern) for row in SUITE):
            raise ValueError(f"no row is called {pattern!r}; --list shows them all")
    return tuple(row for row in SUITE if any(_matches(row, pattern) for pattern in patterns))


def _matches(row: Row, pattern: str) -> bool:
    return fnmatchcase(row.name, pattern) or row.group == pattern
