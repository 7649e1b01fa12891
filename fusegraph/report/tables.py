"""Tables of text, as every report prints them: columns aligned, figures as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate


def table(
    rows: Sequence[Sequence[Any]], headers: Sequence[str], align: str, tablefmt: str = "plain"
) -> str:
    """Rows under ``headers``; ``align`` has a letter for each column, ``l`` or ``r``."""
    sides = ["left" if letter == "l" else "right" for letter in align]
    return tabulate(
        rows, headers, tablefmt, colalign=sides if rows else None, disable_numparse=True
    )
