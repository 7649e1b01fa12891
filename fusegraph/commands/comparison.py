"""A tensor run beside NumPy: what the commands that run something measure, and say of it."""

from __future__ import annotations

import math
import warnings

import numpy as np

from fusegraph.compare import Comparison, compare
from fusegraph.report.units import seconds_text
from fusegraph.tensor import Tensor

MANY_ULPS = 16  # four times what the rows of the op table promise
NEAR_ZERO = (
    "\nMany ulps beside a tiny difference are values near zero: an ulp is a unit in the last place "
    "of the value itself."
)


def compared(tensor: Tensor) -> Comparison:
    """Every way to run ``tensor``; NumPy's warnings about values belong to the data, not here."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return compare(tensor)


def summary(measured: Comparison) -> str:
    """What fusion brought, in a sentence; a second one where ulps alone would mislead."""
    eager, best = measured["numpy eager"], measured["auto"]
    less = eager.bytes_moved / best.bytes_moved if best.bytes_moved else 1.0
    return (
        f"NumPy took {seconds_text(eager.seconds)}, fusegraph {seconds_text(best.seconds)} "
        f"({best.speedup:.2f}x, measured); {less:.1f}x fewer bytes (modelled); values differ by at "
        f"most {best.difference:.1g} ({best.ulps:.0f} ulps)"
        + (NEAR_ZERO if MANY_ULPS < best.ulps < math.inf else "")
    )
