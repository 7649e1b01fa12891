"""The threads of BLAS, which belong to the process: a bound while products run.

In: a number of threads. Out: ``BLAS_THREADS``, and ``with`` blocks in which no product runs on more.
"""

from __future__ import annotations

import threading
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


class BlasThreads:
    """Bounds the threads of every BLAS in the process while products run.

    The bound of a BLAS library is a property of the process: the first caller sets it, the last one
    restores it, and callers in between share the smallest bound asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._controller: ThreadpoolController | None = None
        self._active: list[int] = []
        self._outer: list[tuple[Any, int]] = []

    def at_most(self, bound: int) -> _Bound:
        """A ``with`` block in which no product runs on more threads."""
        return _Bound(self, bound)

    def enter(self, bound: int) -> None:
        with self._lock:
            if self._controller is None:
                self._controller = ThreadpoolController().select(user_api="blas")
            if not self._active:
                self._outer = [(lib, lib.num_threads) for lib in self._controller.lib_controllers]
            self._active.append(bound)
            self._apply()

    def leave(self, bound: int) -> None:
        with self._lock:
            self._active.remove(bound)
            self._apply()

    def _apply(self) -> None:
        for library, outer in self._outer:
            wanted = min([outer, *self._active])
            if library.num_threads != wanted:
                library.set_num_threads(wanted)


class _Bound:
    """A bound while it holds; a generator would take 1 us of a product's 20."""

    __slots__ = ("blas", "bound")

    def __init__(self, blas: BlasThreads, bound: int) -> None:
        self.blas, self.bound = blas, bound

    def __enter__(self) -> None:
        self.blas.enter(self.bound)

    def __exit__(self, *raised: object) -> None:
        self.blas.leave(self.bound)


BLAS_THREADS = BlasThreads()
