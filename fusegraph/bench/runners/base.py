"""What a library must say to run rows of the suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from fusegraph.bench.suite import Row

Call = Callable[..., Any]
"""Takes the arrays in the library's own form; returns when the result is ready."""


class UnsupportedError(Exception):
    """The library has no form of this row; the message says why."""


class Runner:
    """One library in a process of its own, and the ways in which it runs a row.

    Importing the module of a runner imports no optional package: ``load`` does that.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # distributions whose versions belong to a result
    ways: tuple[str, ...]

    def load(self) -> None:
        """Import the library and set it up, once, before anything is timed."""

    def own(self, row: Row, arrays: Sequence[Any]) -> list[Any]:
        """The arrays in the library's own form; not timed."""
        return list(arrays)

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        """What a user writes down before the first call; part of the first call's time.

        Raises
        ------
        UnsupportedError
            This way has no form of this row.
        """
        raise NotImplementedError

    def array(self, result: Any) -> Any:
        """One result as a NumPy array."""
        return np.asarray(result)

    def calls_to_settle(self, way: str, call: Call, arrays: Sequence[Any]) -> int:
        """Calls after the first until the library runs what it will run from then on."""
        return 1

    def facts(self, way: str, call: Call, arrays: Sequence[Any], calls: int) -> dict[str, Any]:
        """What the library can tell of a way after ``calls`` calls: predictions, choices."""
        return {}

    def surroundings(self) -> dict[str, float]:
        """Bandwidth of what this machine shares with whatever else it runs, as it is now."""
        return {}

    def predict(self, row: Row, arrays: Sequence[Any], streams: dict[str, float]) -> float | None:
        """Seconds of a settled call, were bandwidths those of ``streams``; None: it predicts nothing."""
        return None

    def forget(self) -> None:
        """Drop what a row left behind, before the next one."""
