"""Workloads: array code that runs unchanged on NumPy arrays and on Tensors.

Each takes arrays of one size and returns an array. Most are functions of ``fusegraph bench`` over NumPy,
whose protocols Tensors serve; the others are about layouts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegraph.bench import functions


def over_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the suite with NumPy as its namespace."""

    @functools.wraps(function)
    def run(*arrays: Any) -> Any:
        return function(np, *arrays)

    return run


gelu = over_numpy(functions.gelu)


def sqrt(x: Any) -> Any:
    return np.sqrt(x)


def softmax_rows(x: Any) -> Any:
    return functions.softmax(np, x.reshape(-1, 50))


def transposed(x: Any) -> Any:
    square = x.reshape(-1, 100)
    return square.T * 2 + 1


def strided(x: Any) -> Any:
    return x[::2] * 0.5 + x[1::2] * 0.5


def column_bias(x: Any) -> Any:
    rows = x.reshape(-1, 100)
    return functions.column_bias(np, rows, rows[0], rows[1])


@dataclass(frozen=True)
class Workload:
    """A function, how many arrays it takes, and their dtype."""

    function: Callable[..., Any]
    arity: int
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.function.__name__}-{self.dtype}"

    def arrays(self, size: int) -> list[Any]:
        rng = np.random.default_rng(size)
        if self.dtype.startswith("int"):
            return [rng.integers(-1000, 1000, size).astype(self.dtype) for _ in range(self.arity)]
        return [rng.uniform(0.1, 2.0, size).astype(self.dtype) for _ in range(self.arity)]


WORKLOADS = [
    Workload(function, arity, dtype)
    for function, arity, dtypes in (
        (gelu, 1, ("float32", "float64")),
        (over_numpy(functions.triad), 2, ("float32", "float64")),
        (over_numpy(functions.add), 2, ("float32",)),
        (over_numpy(functions.exp), 1, ("float64",)),
        (sqrt, 1, ("float32",)),
        (over_numpy(functions.sigmoid), 1, ("float32",)),
        (over_numpy(functions.hardswish), 1, ("float32",)),
        (over_numpy(functions.polynomial), 1, ("float32", "float64")),
        (over_numpy(functions.softplus), 1, ("float32",)),
        (over_numpy(functions.distance), 2, ("float32",)),
        (over_numpy(functions.clamp_select), 2, ("float32",)),
        (over_numpy(functions.normalise), 1, ("float32",)),
        (over_numpy(functions.squared_error), 2, ("float64",)),
        (over_numpy(functions.integers), 2, ("int32",)),
        (softmax_rows, 1, ("float32",)),
        (transposed, 1, ("float32",)),
        (strided, 1, ("float32",)),
        (column_bias, 1, ("float32",)),
    )
    for dtype in dtypes
]
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
