"""The threads of BLAS, which belong to the process: a bound while products run.

In: a number of threads. Out: ``BLAS_THREADS``, and ``with`` blocks in which no product runs on more.
"""

from __future__ import annotations

import weakref
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from fusegraph import forks

# Multiply-adds of a real matrix and a vector that OpenBLAS runs on the calling thread, whatever its
# bound is: since the release whose threads' processor time was looked at, and before.
SERIAL_SINCE = (0, 3, 31)
SERIAL_VECTOR_SINCE = 460_000
SERIAL_VECTOR = 2**13


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

    @property
    def serial_vector(self) -> int:
        """Multiply-adds up to which no library runs a real matrix and a vector on several threads."""
        with self._lock:
            libraries = self._libraries
        recent = all(
            lib.internal_api == "openblas" and _release(lib.version) >= SERIAL_SINCE
            for lib in libraries
        )
        return SERIAL_VECTOR_SINCE if recent else SERIAL_VECTOR

    @property
    def _libraries(self) -> list[Any]:
        if self._controller is None:
            self._controller = ThreadpoolController().select(user_api="blas")
        return list(self._controller.lib_controllers)

    def enter(self, entry: weakref.ref[_Bound], bound: int) -> None:
        with self._lock:
            if not self._active:
                outer = [(lib, lib.num_threads) for lib in self._libraries]
                if all(number <= bound for _, number in outer):
                    return  # there is nothing to set, nor to restore
                self._outer = outer
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


def _release(version: str | None) -> tuple[int, ...]:
    """The numbers of a library's version, those that are numbers."""
    return tuple(int(part) for part in (version or "").split(".")[:3] if part.isdecimal())


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
