"""The record: what the command found when it last ran over everything, kept beside the code.

In: findings. Out: a JSON document, and the table of it that the documentation shows.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
from tabulate import tabulate

from fusegraph.engines.llvm.vecmath import ROWS
from fusegraph.processor import cpu_name
from fusegraph.vecmath_check.measurement import Finding

FILE = "errors.json"
DTYPES = ("float32", "float64")
Document = dict[str, Any]


def document(findings: Sequence[Finding]) -> Document:
    """What ``--json`` writes."""
    return {
        "processor": cpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("numpy", "llvmlite", "fusegraph")},
        "longdouble_bits": int(np.finfo(np.longdouble).nmant) + 1,
        "findings": [
            {
                "function": found.name,
                "dtype": found.dtype,
                "points": found.points,
                "exhaustive": found.exhaustive,
                "ulps": round(found.ulps, 3),
                "bound": found.bound,
                "at": [x.hex() for x in found.at],
                "special_values_as_numpy": not found.special,
            }
            for found in findings
        ],
    }


def recorded() -> Document:
    """The document that comes with the package."""
    text = files("fusegraph.vecmath_check").joinpath(FILE).read_text()
    found: Document = json.loads(text)
    return found


def errors_of(kept: Document) -> dict[tuple[str, str], dict[str, Any]]:
    """Its findings by function and dtype."""
    return {(entry["function"], entry["dtype"]): entry for entry in kept["findings"]}


def markdown(kept: Document) -> str:
    """The table of errors: a row a function, errors in ulps, a star where every argument was tried."""
    found = errors_of(kept)
    rows = [
        (f"`{row.name}`", *(_error(found[row.name, dtype]) for dtype in DTYPES), row.source)
        for row in ROWS
    ]
    header = ("function", *DTYPES, "method")
    return tabulate(
        rows,
        header,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", "right", "right", "left"),
    )


def _error(entry: dict[str, Any]) -> str:
    return f"{entry['ulps']:.3f}" + ("*" if entry["exhaustive"] else "")
