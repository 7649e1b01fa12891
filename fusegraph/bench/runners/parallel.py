"""numba: the loops of ``loops``, compiled."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, ClassVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fusegraph.bench.runners import loops
from fusegraph.bench.runners.base import Call, Runner, UnsupportedError
from fusegraph.bench.suite import Row


class NumbaRunner(Runner):
    """``njit(parallel=True)`` without fastmath and without a cache on disk."""

    name: ClassVar[str] = "numba"
    packages: ClassVar[tuple[str, ...]] = ("numba",)
    ways = ("numba",)
    numba: Any
    _limits: Any = None  # on BLAS's threads, while heads take them

    def load(self) -> None:
        import numba  # noqa: PLC0415  (optional)

        self.numba = numba

    def own(self, row: Row, arrays: Sequence[Any]) -> list[Any]:
        if loop_of(row) is loops.head_attention:
            import scipy.linalg.cython_blas  # noqa: F401, PLC0415  (the BLAS that numba calls)

            self._limits = threadpool_limits(1, "blas")
        return list(arrays)

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        call: Call = compiled(self.numba, loop_of(row))
        return call

    def forget(self) -> None:
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None


def loop_of(row: Row) -> Call:
    """The loop that does what the row does.

    Raises
    ------
    UnsupportedError
        Nobody wrote it.
    """
    found = loops.LOOPS.get(row.function.__name__)
    if found is None:
        raise UnsupportedError("there is no loop for it")
    heads = found is loops.attention and len(row.shapes[0]) > 2
    return loops.head_attention if heads else found


def compiled(numba: Any, function: Any, parallel: bool = True) -> Any:
    """``function`` over numba's ``prange``, and what it calls: in parallel unless a loop is around."""
    inner = parallel and "prange" not in function.__code__.co_names
    names = {**function.__globals__, "prange": numba.prange}
    names |= {of.__name__: compiled(numba, of, inner) for of in loops.CALLED.get(function, ())}
    return numba.njit(parallel=parallel)(types.FunctionType(function.__code__, names))
