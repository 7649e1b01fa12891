"""The threads of BLAS, which belong to the process: a bound while products run.

In: a number of threads. Out: ``BLAS_THREADS``, and ``with`` blocks in which no product runs on more.
"""

from __future__ import annotations

import weakref
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from fusegraph import forks


class BlasThreads:
    """Bounds the threads of every BLAS in the process while products run.

    The bound of a BLAS library is a property of the process: the first caller sets it, the last one
    restores it, and callers in between share the smallest bound asked for.
    """

    def __init__(self) -> None:
        self._lock = forks.lock()  # a garbage collection may end a bound while another is set
        self._controller: ThreadpoolController | None = None
        self._active: list[tuple[weakref.ref[_Bound], int]] = []
        self._outer: list[tuple[Any, int]] = []  # what the user has set, while something is active

    def at_most(self, bound: int) -> _Bound:
        """A ``with`` block in which no product runs on more threads."""
        return _Bound(self, bound)

    def enter(self, entry: weakref.ref[_Bound], bound: int) -> None:
        with self._lock:
            if self._controller is None:
                self._controller = ThreadpoolController().select(user_api="blas")
            if not self._outer:
                self._outer = [(lib, lib.num_threads) for lib in self._controller.lib_controllers]
            self._active.append((entry, bound))
            self._apply(self._active)

    def leave(self, entry: weakref.ref[_Bound]) -> None:
        """End a bound; broken off anywhere, it can be done again."""
        with self._lock:
            active = [at for at in self._active if at[0] is not entry and at[0]() is not None]
            self._apply(active)
            self._active[:] = active
            if not active:
                self._outer = []

    def forget(self) -> None:
        """A forked child runs none of the products of its parent's threads."""
        self._active.clear()
        self._apply(self._active)
        self._outer = []

    def _apply(self, active: list[tuple[weakref.ref[_Bound], int]]) -> None:
        for library, outer in self._outer:
            wanted = min([outer, *[bound for _, bound in active]])
            if library.num_threads != wanted:
                library.set_num_threads(wanted)


class _Bound:
    """A bound while it holds; a generator would take 1 us of a product's 20.

    An interrupt comes between any two steps: ``with`` does not call ``__exit__`` where ``__enter__`` was
    broken off, nor again where ``__exit__`` was. So both end the bound then, before a traceback is kept,
    by a notebook for one, with all that its frames hold; and what they miss ends with this object.
    """

    __slots__ = ("__weakref__", "blas", "bound", "entry")

    def __init__(self, blas: BlasThreads, bound: int) -> None:
        self.blas, self.bound = blas, bound
        self.entry: weakref.ref[_Bound] | None = None

    def __enter__(self) -> None:
        entry = self.entry = weakref.ref(self, self.blas.leave)
        try:
            self.blas.enter(entry, self.bound)
        except BaseException:
            self.blas.leave(entry)
            raise

    def __exit__(self, *raised: object) -> None:
        assert self.entry is not None
        try:
            self.blas.leave(self.entry)
        except BaseException:
            self.blas.leave(self.entry)
            raise
        self.entry = None  # nothing is left to end with this object


BLAS_THREADS = BlasThreads()
forks.in_child(BLAS_THREADS.forget)
