"""Dask: the function over ``dask.array``, chunked along the first axis, on threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fusegraph.bench.runners.base import Call, Runner
from fusegraph.bench.suite import Row, as_list
from fusegraph.processor import available_cores

CHUNKS = 2  # a core


class DaskRunner(Runner):
    """Two chunks a core; the graph is built at each call, as ``compute()`` asks for one."""

    name: ClassVar[str] = "dask"
    packages: ClassVar[tuple[str, ...]] = ("dask",)
    ways = ("dask",)
    dask: Any

    def load(self) -> None:
        import dask  # noqa: PLC0415  (optional)
        import dask.array  # noqa: PLC0415

        self.dask = dask

    def own(self, row: Row, arrays: Sequence[Any]) -> list[Any]:
        """Arrays shaped like the first are cut like it; weights and keys stay whole."""
        first = arrays[0]
        rows = -(-len(first) // (CHUNKS * available_cores()))
        found = []
        for at, array in enumerate(arrays):
            whole = at > 0 and (
                array.shape != first.shape or row.group in ("products", "attention")
            )
            chunks = array.shape if whole else (rows, *array.shape[1:])
            found.append(self.dask.array.from_array(array, chunks, name=False))
        return found

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        dask, function = self.dask, row.function
        return lambda *arrays: list(dask.compute(*as_list(function(dask.array, *arrays))))
