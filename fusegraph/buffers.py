"""Buffers: fresh arrays from memory that was used before.

The system maps fresh pages one fault at a time; between 0.5 and 16 MiB an array that costs more than
the arithmetic (reuse was measured at 7x at 4 MiB). The pool keeps blocks and hands out arrays over a
block that nobody holds any more. Who holds a block is told by its reference count: every view of a
result, of any depth, keeps the block alive, so nothing a user still holds is reused.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
from typing import Any

import numpy as np

from fusegraph.graph import DType, Shape

SMALLEST = 64 * 1024  # bytes; below this NumPy's own allocation is as fast
GRAIN = 64 * 1024  # block sizes are multiples of this
BOUND = 1 << 30  # bytes the pool keeps at most
LINE = 64  # bytes of a cache line: where arrays of the pool begin


Kept = tuple[np.ndarray[Any, Any], int]
"""A block, and where its first cache line begins. One object, so that no interrupt parts them."""


def _references(block: Any) -> int:
    return sys.getrefcount(block)


class Pool:
    """A bounded set of blocks; thread-safe."""

    def __init__(self, bound: int = BOUND) -> None:
        self.bound = bound
        self._lock = threading.Lock()
        self._blocks: dict[int, list[Kept]] = {}
        probe = [(np.empty(0, np.uint8), 0)]
        # How many references a block has that only the pool holds: counted, since interpreters differ.
        self._unused = self._count(probe, 0)

    @staticmethod
    def _count(blocks: list[Kept], at: int) -> int:
        return _references(blocks[at][0])

    @staticmethod
    def footprint(nbytes: int) -> int:
        """Bytes that an array of ``nbytes`` takes: a block of the pool, or itself where it is small."""
        return nbytes if nbytes < SMALLEST else -(-nbytes // GRAIN) * GRAIN

    def empty(self, shape: Shape, dtype: DType) -> np.ndarray[Any, Any]:
        """An uninitialised C-ordered array, that of a block aligned to a cache line."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < SMALLEST:
            return np.empty(shape, dtype)
        block, start = self._take(self.footprint(nbytes))
        return np.ndarray(shape, dtype, block, start)

    def _take(self, size: int) -> Kept:
        with self._lock:
            blocks = self._blocks.setdefault(size, [])
            for at in range(len(blocks)):
                if self._count(blocks, at) == self._unused:
                    return blocks[at]
            block = np.empty(size + LINE, np.uint8)
            kept = (block, -block.ctypes.data % LINE)
            if size <= self.bound:
                self._trim(self.bound - size)
                blocks.append(kept)
            return kept

    def _trim(self, bound: int) -> None:
        """Drop unused blocks, then the oldest, until ``bound`` bytes are kept."""
        over = self.nbytes - bound
        for unused_only in (True, False):
            for size, blocks in self._blocks.items():
                for at in range(len(blocks) - 1, -1, -1):
                    if over <= 0:
                        return
                    if not unused_only or self._count(blocks, at) == self._unused:
                        del blocks[at]
                        over -= size

    @property
    def nbytes(self) -> int:
        """Bytes the pool keeps, in use or not."""
        return sum(size * len(blocks) for size, blocks in list(self._blocks.items()))

    def clear(self) -> None:
        """Forget every block; memory that nobody holds goes back to the system."""
        with self._lock:
            self._blocks.clear()


POOL = Pool()
"""The process's pool: memory is a property of the process, so there is one."""


Wanted = tuple[tuple[Shape, DType], ...]


class Scratch(threading.local):
    """Temporaries of blocks: memory of a thread that its next kernel uses again.

    Kernels of one thread do not overlap in time, so their scratch may overlap in memory.
    """

    REMEMBERED = 64  # shapes whose arrays are kept; a loop asks for two: whole blocks and the last

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self.arrays: dict[Any, list[np.ndarray[Any, Any]]] = {}

    def take(self, wanted: Wanted) -> list[np.ndarray[Any, Any]]:
        """An array for each shape and dtype, side by side, aligned to cache lines."""
        if not wanted:
            return []
        found = self.arrays.get(wanted)
        return self._lay_out(wanted) if found is None else found

    def _lay_out(self, wanted: Wanted) -> list[np.ndarray[Any, Any]]:
        exact = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
        sizes = [-(-nbytes // 64) * 64 for nbytes in exact]
        if self.memory.size < sum(sizes) or len(self.arrays) >= self.REMEMBERED:
            self.arrays.clear()
        if self.memory.size < sum(sizes):
            self.memory = np.empty(0, np.uint8)  # let go of the old before asking for the new
            self.memory = np.empty(sum(sizes), np.uint8)
        ends = itertools.accumulate(sizes)
        found = [
            self.memory[end - size : end][:nbytes].view(dtype).reshape(shape)
            for size, end, nbytes, (shape, dtype) in zip(sizes, ends, exact, wanted, strict=True)
        ]
        self.arrays[wanted] = found
        return found


SCRATCH = Scratch()
