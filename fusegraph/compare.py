"""Comparing: one expression by plain NumPy, unfused, and fused on every engine that accepts it.

In: a tensor. Out: a ``Comparison`` record; its text is a table. Times are measured: medians of runs
that take turns, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusegraph.bound_plan import BoundPlan, bind
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.options import current_options
from fusegraph.reference import evaluate
from fusegraph.report.tables import table
from fusegraph.report.units import bytes_text, seconds_text
from fusegraph.tensor import Tensor

# Seconds for which the process is watched, asleep it uses less than a tenth of them; and until threads
# that spin for longer are left to spin.
GLANCE, LONGEST_REST = 0.01, 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One way to run the expression."""

    name: str
    kernels: int
    seconds: float  # measured, median
    bytes_moved: int  # modelled
    speedup: float  # NumPy's measured seconds over this one's
    ulps: float  # largest difference from NumPy, in units in the last place
    difference: float  # largest absolute difference: few beside many ulps tells a cancellation


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in the order they were asked for, NumPy first."""

    rows: tuple[Row, ...]
    repeats: int

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}: there are {', '.join(r.name for r in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        return {"repeats": self.repeats, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        rows = [
            (
                r.name, r.kernels, seconds_text(r.seconds), bytes_text(r.bytes_moved),
                f"{r.speedup:.2f}x", f"{r.ulps:.1f}", f"{r.difference:.1g}",
            )
            for r in self.rows
        ]  # fmt: skip
        headers = ("", "kernels", "measured", "moved (modelled)", "speed", "max ulps", "max diff")
        return table(rows, headers, "lrrrrrr")


def ulps_apart(a: Any, b: Any) -> float:
    """Largest difference of two arrays in units in the last place of the larger value.

    Equal values, and NaN beside NaN, are 0 apart; NaN beside a number, or infinity beside another
    value, is infinitely far. Integers and bools are apart by their difference.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "c":
        return max(ulps_apart(a.real, b.real), ulps_apart(a.imag, b.imag))
    if not a.size:
        return 0.0
    if a.dtype.kind != "f":
        return float(np.max(np.where(a == b, 0, np.abs(a.astype(float) - b.astype(float)))))
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        unit = np.spacing(np.maximum(np.abs(a), np.abs(b))).astype(float)
        apart = np.abs(a.astype(float) - b.astype(float)) / unit
    apart = np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))
    return float(np.max(apart))


def largest_difference(a: Any, b: Any) -> float:
    """Largest absolute difference of two arrays, where it is finite."""
    with np.errstate(all="ignore"):
        wide = complex if np.asarray(a).dtype.kind == "c" else float
        apart = np.abs(np.asarray(a, wide) - np.asarray(b, wide))
    return float(np.max(apart, initial=0.0, where=np.isfinite(apart)))


def compare(tensor: Any, repeats: int = 7) -> Comparison:
    """Run ``tensor`` in every way there is.

    Parameters
    ----------
    tensor : Tensor
        An expression that is not computed yet.
    repeats : int
        Runs of each way; they take turns.

    Returns
    -------
    Comparison
        ``numpy eager``, ``unfused``, ``fused <engine>`` for each engine that runs at least one of the
        kernels, and ``auto``.

    Raises
    ------
    ValueError
        ``repeats`` is not positive, or nothing would run: ``tensor`` is computed, or an array.
    """
    if repeats < 1:
        raise ValueError(f"compare: repeats={repeats}: give a positive integer")
    tensor = tensor if isinstance(tensor, Tensor) else Tensor(tensor)
    node = tensor.node
    unfused = bind([node], current_options(engine="numpy", fuse=False))
    if not unfused.kernels:
        raise ValueError(
            f"compare: {tensor!r} has nothing to run; build the expression again, and compare it before "
            "it is computed"
        )
    plans: dict[str, BoundPlan] = {"unfused": unfused}
    for engine in ELEMENTWISE_ENGINES:
        plan = bind([node], current_options(engine=engine))
        if any(kernel.engine == engine for kernel in plan.kernels):
            plans[f"fused {engine}"] = plan
    plans["auto"] = bind([node], current_options(engine="auto"))
    ways: dict[str, Callable[[], Any]] = {"numpy eager": lambda: evaluate([node])}
    ways.update({name: plan.run for name, plan in plans.items()})
    reference = evaluate([node])[0]
    products = any(k.region.nodes[0].kind == "matmul" for k in unfused.kernels)
    seconds = interleaved(ways, repeats, products)
    rows = [Row("numpy eager", unfused.plan.op_count, seconds["numpy eager"],
                unfused.traffic.before.bytes_moved, 1.0, 0.0, 0.0)]  # fmt: skip
    for name, plan in plans.items():
        result = plan.run()[0]
        rows.append(
            Row(
                name=name,
                kernels=len(plan.kernels),
                seconds=seconds[name],
                bytes_moved=plan.cost.bytes_moved,
                speedup=seconds["numpy eager"] / seconds[name],
                ulps=ulps_apart(result, reference),
                difference=largest_difference(result, reference),
            )
        )
    return Comparison(tuple(rows), repeats)


def rest() -> None:
    """Wait until no thread of this process runs.

    After a product the threads of a BLAS spin, and who runs next has a core less: those of OpenBLAS for
    0.1 s. A product of 1024 x 1024 float32 right after NumPy's took 19 ms, and 11 after a rest. It is no
    longer than that takes to see: after 70 ms of sleep Python itself ran at half its speed.
    """
    end = time.monotonic() + LONGEST_REST
    used = GLANCE
    while used > GLANCE / 10 and time.monotonic() < end:
        before = time.process_time()
        time.sleep(GLANCE)
        used = time.process_time() - before


def interleaved(
    ways: dict[str, Callable[[], Any]], repeats: int, rests: bool = False
) -> dict[str, float]:
    """Median seconds of each way; after one run to warm up they take turns.

    ``rests``: with a rest before each run, for where one of them multiplies matrices.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            if rests:
                rest()
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}
