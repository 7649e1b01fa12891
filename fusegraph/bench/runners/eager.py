"""NumPy itself: each operation on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fusegraph.bench.runners.base import Call, Runner
from fusegraph.bench.suite import Row


class NumpyRunner(Runner):
    """The function as it stands."""

    name: ClassVar[str] = "numpy"
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    ways = ("numpy",)

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        function = row.function
        return lambda *arrays: function(np, *arrays)
