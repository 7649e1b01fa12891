"""Workloads: array code that runs unchanged on NumPy arrays and on Tensors.

Each takes arrays of one size and returns an array. They are written as a careful user writes them
(``x * x * x``, float32 constants stay float32), so the baseline is a fair one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SQRT_2_OVER_PI = 0.7978845608028654


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * (x * x * x))))


def triad(a: Any, b: Any) -> Any:
    return a + 2.5 * b


def one_add(a: Any, b: Any) -> Any:
    return a + b


def one_exp(x: Any) -> Any:
    return np.exp(x)


def one_sqrt(x: Any) -> Any:
    return np.sqrt(x)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def hardswish(x: Any) -> Any:
    return x * np.minimum(np.maximum(x + 3, 0), 6) / 6


def polynomial(x: Any) -> Any:
    total = x * 0.1 + 0.2
    for n in range(9):
        total = total * x + (0.1 * n - 0.3)
    return total


def softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def distance(a: Any, b: Any) -> Any:
    return np.sqrt((a - b) * (a - b) + (a + b) * (a + b))


def clamp_select(a: Any, b: Any) -> Any:
    return np.where(a > b, a * 2 - b, b * 2 - a)


def normalise(x: Any) -> Any:
    return (x - x.mean()) / (x.std() + 1e-6)


def total_of_squares(a: Any, b: Any) -> Any:
    return ((a - b) * (a - b)).sum()


def integers(a: Any, b: Any) -> Any:
    return (a * 3 + b) & (a | 7)


def softmax_rows(x: Any) -> Any:
    rows = x.reshape(-1, 50)
    e = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def transposed(x: Any) -> Any:
    square = x.reshape(-1, 100)
    return square.T * 2 + 1


def strided(x: Any) -> Any:
    return x[::2] * 0.5 + x[1::2] * 0.5


def column_bias(x: Any) -> Any:
    rows = x.reshape(-1, 100)
    return np.maximum(rows * rows[0] + rows[1], 0)


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
        (triad, 2, ("float32", "float64")),
        (one_add, 2, ("float32",)),
        (one_exp, 1, ("float64",)),
        (one_sqrt, 1, ("float32",)),
        (sigmoid, 1, ("float32",)),
        (hardswish, 1, ("float32",)),
        (polynomial, 1, ("float32", "float64")),
        (softplus, 1, ("float32",)),
        (distance, 2, ("float32",)),
        (clamp_select, 2, ("float32",)),
        (normalise, 1, ("float32",)),
        (total_of_squares, 2, ("float64",)),
        (integers, 2, ("int32",)),
        (softmax_rows, 1, ("float32",)),
        (transposed, 1, ("float32",)),
        (strided, 1, ("float32",)),
        (column_bias, 1, ("float32",)),
    )
    for dtype in dtypes
]
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
