"""Measuring one subject: chunk by chunk, on several threads, keeping the worst points.

In: a ``Subject`` and how many points. Out: a ``Finding``.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fusegraph.vecmath_check import references
from fusegraph.vecmath_check.points import draw
from fusegraph.vecmath_check.subjects import (
    CANCELLATION,
    Array,
    Subject,
    error_kernel,
    value_kernel,
)
from fusegraph.workers import run_tasks

CHUNK = 1 << 15  # points at a time: what a chunk needs stays in L2
EVERY_FLOAT = 1 << 32
WORST = 6  # points of a chunk, and of a subject, that are kept
WITHOUT_LONGDOUBLE = 20_000  # points that mpmath does in seconds
SEED = 20_240


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one subject: the largest error in ulps and where it was."""

    name: str
    dtype: str
    points: int
    exhaustive: bool
    ulps: float
    at: tuple[float, ...]
    bound: float
    special: tuple[str, ...]  # special values that are not NumPy's

    @property
    def fine(self) -> bool:
        return self.ulps <= self.bound and not self.special


@dataclass
class _Worst:
    """The worst points so far."""

    kept: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, errors: Array, operands: tuple[Array, ...]) -> None:
        """Keep the worst points of a chunk, if they are worse."""
        least = self.kept[0][0] if len(self.kept) == WORST else -1.0
        if not float(errors.max()) > least:
            return
        places = np.argpartition(errors, -WORST)[-WORST:] if errors.size > WORST else slice(None)
        at = zip(*(x[places].tolist() for x in operands), strict=True)
        found = zip(errors[places].tolist(), at, strict=True)
        with self.lock:
            for entry in found:
                heapq.heappush(self.kept, entry)
                if len(self.kept) > WORST:
                    heapq.heappop(self.kept)


def measure(subject: Subject, sample: int | None, threads: int) -> Finding:
    """The largest error of a subject.

    Parameters
    ----------
    subject : Subject
        A function and a dtype.
    sample : int or None
        How many points to draw; None for every float, or 10,000,000 points where that is not possible.
    threads : int
        How many chunks to work on at once.
    """
    exhaustive = sample is None and subject.arity == 1 and subject.dtype == "float32"
    count = EVERY_FLOAT if exhaustive else sample or 10_000_000
    if subject.dtype == "float64" and not references.extended():
        count = min(count, WITHOUT_LONGDOUBLE)
    worst = _Worst()
    task = _float_task if subject.dtype == "float32" else _double_task
    size = min(CHUNK, count)
    chunks = -(-count // size)
    run_tasks(lambda: task(subject, exhaustive, size, worst), chunks, threads)
    ulps, at = _confirmed(subject, worst)
    return Finding(
        subject.name, subject.dtype, chunks * size, exhaustive, ulps, at, subject.bound,
        tuple(unlike_numpy(subject)),
    )  # fmt: skip


def _float_task(
    subject: Subject, exhaustive: bool, size: int, worst: _Worst
) -> Callable[[int], None]:
    kernel, reference = error_kernel(subject), references.double(subject.name)
    errors = np.empty(size, np.float32)

    def task(index: int) -> None:
        if exhaustive:
            bits = np.arange(index * size, (index + 1) * size, dtype=np.uint32)
            operands: tuple[Array, ...] = (bits.view(np.float32),)
        else:
            operands = draw(subject, size, (SEED, index))
        with np.errstate(all="ignore"):
            expected = reference(*(x.astype(np.float64) for x in operands))
        kernel(*operands, expected, errors)
        worst.add(errors, operands)

    return task


def _double_task(
    subject: Subject, exhaustive: bool, size: int, worst: _Worst
) -> Callable[[int], None]:
    kernel = value_kernel(subject)
    reference = references.longdouble(subject.name) if references.extended() else None
    result = np.empty(size)

    def task(index: int) -> None:
        operands = draw(subject, size, (SEED, index))
        kernel(*operands, result)
        if reference is None:
            worst.add(_exact_errors(subject, operands, result), operands)
            return
        with np.errstate(all="ignore"):
            wide = tuple(x.astype(np.longdouble) for x in operands)
            worst.add(_double_ulps(subject, wide, result, reference(*wide)), operands)

    return task


def _double_ulps(
    subject: Subject, operands: tuple[Array, ...], result: Array, expected: Array
) -> Array:
    """``|result - expected|`` in ulps of double; infinite where NaNs or the signs of zeros differ."""
    digits, least, end = references.FORMATS["float64"]
    unlike = np.isnan(result) != np.isnan(expected)
    zeros = (result == 0, expected == 0)
    # where terms cancel, the reference's zero is rounded too
    is_zero = zeros[0] & zeros[1] if subject.cancels else zeros[0] | zeros[1]
    unlike |= is_zero & (np.signbit(result) != np.signbit(expected))
    most = np.ldexp(np.longdouble(1), end)
    own, expected = (np.clip(x.astype(np.longdouble), -most, most) for x in (result, expected))
    size = np.abs(expected)
    if subject.cancels:
        for x in operands:
            size = np.maximum(size, np.abs(x) / CANCELLATION)
    exponent = np.clip(np.frexp(size)[1] - 1, least, end - 1)
    scaled: Array = np.ldexp(np.abs(own - expected), digits - 1 - exponent)
    errors = scaled.astype(np.float64)
    errors[np.isnan(errors)] = 0
    errors[unlike] = np.inf
    return errors


def _exact_errors(subject: Subject, operands: tuple[Array, ...], result: Array) -> Array:
    """By mpmath, which has no negative zero and no infinity; special values are checked apart."""
    errors = np.zeros(result.size)
    ordinary = np.logical_and.reduce([np.isfinite(x) & (x != 0) for x in operands])
    for at in np.flatnonzero(np.isfinite(result) & ordinary):
        arguments = tuple(float(x[at]) for x in operands)
        errors[at] = references.exact_ulps(subject, arguments, float(result[at]))
    return errors


def _confirmed(subject: Subject, worst: _Worst) -> tuple[float, tuple[float, ...]]:
    """The largest error; of doubles, as mpmath sees it."""
    found = sorted(worst.kept, reverse=True)
    if subject.dtype == "float32" or not np.isfinite(found[0][0]):
        return found[0]
    kernel = value_kernel(subject)
    exact = []
    for _, at in found:
        operands = [np.array([x]) for x in at]
        result = np.empty(1)
        kernel(*operands, result)
        # NaN is the reference's too here, where mpmath may have a value: pow goes by its real part.
        nan = np.isnan(result[0])
        exact.append((0.0 if nan else references.exact_ulps(subject, at, float(result[0])), at))
    return max(exact)


# --- special values -------------------------------------------------------------------------------


def unlike_numpy(subject: Subject) -> list[str]:
    """Arguments at which NumPy or the function gives NaN, infinity or zero, and not both."""
    info = np.finfo(np.dtype(subject.dtype))
    sizes = [0.0, 1.0, 0.5, 2.0, 3.0, np.inf, info.max, info.tiny, info.smallest_subnormal]
    values = np.array([*sizes, *(-x for x in sizes), np.nan], subject.dtype)
    grid = list(itertools.product(values, repeat=subject.arity))
    operands = [np.array(column, subject.dtype) for column in zip(*grid, strict=True)]
    result = np.empty(len(grid), subject.dtype)
    value_kernel(subject)(*operands, result)
    with np.errstate(all="ignore"):
        expected = references.numpy_function(subject.name)(*operands)
    special = [~np.isfinite(x) | (x == 0) for x in (result, expected)]
    same = np.isnan(result) & np.isnan(expected)
    same |= (result == expected) & (np.signbit(result) == np.signbit(expected))
    return [
        f"{subject.name}({', '.join(str(float(x)) for x in grid[at])}) is {result[at]}, "
        f"NumPy's {expected[at]}"
        for at in np.flatnonzero((special[0] | special[1]) & ~same)
    ]
