"""How arrays lie: what a compiled function reads of their shapes and strides, worked out once.

In: arrays. Out: ``Operand``s over axes that are joined where all of them allow it, a ``Layout``, and
``Remembered``, which keeps what follows from shapes and strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from fusegraph.engines.base import Array
from fusegraph.graph import Shape

REMEMBERED = 64  # of a function's arrays; a plan meets two: whole blocks and the last
T = TypeVar("T")


class Layout(NamedTuple):
    """What a compiled function reads of a call's arrays: words, where they lie, bytes of scratch."""

    words: np.ndarray[Any, Any]
    address: int
    scratch_bytes: int

    @classmethod
    def of(cls, words: Sequence[int], scratch_bytes: int) -> Layout:
        array = np.array(words, np.int64)
        return cls(array, array.ctypes.data, scratch_bytes)


class Operand(NamedTuple):
    """One operand of a kernel, as a loop sees it."""

    itemsize: int
    strides: tuple[int, ...]  # one an axis of the loop, 0 where it is broadcast
    written: bool
    single: bool = False  # the kernel reads one element, whatever the columns
    aligned: bool = True  # do its elements lie at multiples of their size?


def aligned_strides(array: np.ndarray[Any, Any], shape: Shape) -> tuple[int, ...]:
    """Strides of ``array`` along the axes of ``shape``; 0 where it is broadcast."""
    missing = len(shape) - array.ndim
    return (0,) * missing + tuple(
        0 if n == 1 else stride for n, stride in zip(array.shape, array.strides, strict=True)
    )


def joined(shape: Shape, operands: Sequence[Operand]) -> tuple[Shape, list[Operand]]:
    """The same iteration space with as few axes as its operands allow."""
    kept: list[int] = []
    strides: list[list[int]] = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        along = [o.strides[axis] for o in operands]
        if kept and all(a == b * length for a, b in zip(strides[-1], along, strict=True)):
            kept[-1] *= length
            strides[-1] = along
        else:
            kept.append(length)
            strides.append(along)
    found = [o._replace(strides=tuple(s[k] for s in strides)) for k, o in enumerate(operands)]
    if not kept:  # one element: dense whatever its strides
        return (1,), [o._replace(strides=(o.itemsize,)) for o in operands]
    return tuple(kept), found


class Remembered(Generic[T]):
    """What ``work_out`` gives for arrays of some shapes and strides, asked once for each."""

    def __init__(self, work_out: Callable[..., T]) -> None:
        self.work_out = work_out
        self.known: dict[Any, tuple[T]] = {}

    def __call__(self, file: Sequence[Array], *facts: Any) -> T:
        """``work_out(file, *facts)``; the facts follow from shapes and strides too."""
        key = tuple((a.shape, a.strides, a.flags.aligned) for a in file)
        found = self.known.get(key)
        if found is None:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            found = self.known[key] = (self.work_out(file, *facts),)
        return found[0]
