"""The command ``fusegraph demo``: a layer on real data, planned and run beside NumPy."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusegraph.arguments import add_command, add_planning, load_array, positive
from fusegraph.commands.comparison import compared, summary
from fusegraph.cost import Cost, Traffic
from fusegraph.elementwise import gelu
from fusegraph.graph import Array
from fusegraph.report.documents import document
from fusegraph.report.tables import table
from fusegraph.report.units import bytes_text, count_text, plural
from fusegraph.tensor import Tensor

DEMO_ROWS = 20_000  # the digits are repeated to this many, so that a run takes milliseconds
DEMO_COLUMNS = 256
DIGITS = (1797, 64)


def add_demo(commands: Any) -> None:
    """Register the command."""
    parser = add_command(
        commands, demo, "Plan and run a layer, gelu(x @ W + b), on real data, beside NumPy."
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE.npy",
        help="a matrix, one sample a row (default: scikit-learn's handwritten digits)",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=positive, metavar="N",
        help=f"repeat the samples to N rows (default: {DEMO_ROWS:,} for the digits)",
    )  # fmt: skip
    add_planning(parser)


def demo(args: argparse.Namespace) -> str:
    """A GELU layer on real data: plan, traffic, times, difference."""
    samples = demo_samples(args.data, args.rows)
    x = samples.array
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((x.shape[1], DEMO_COLUMNS)) / math.sqrt(x.shape[1])
    bias = generator.standard_normal(DEMO_COLUMNS)
    layer = gelu(Tensor(x) @ weights.astype(x.dtype) + bias.astype(x.dtype))
    plan = layer.plan()
    measured = compared(layer)
    if args.json:
        data = {"source": samples.source, "note": samples.note, "dtype": str(x.dtype),
                "shape": list(x.shape)}  # fmt: skip
        return document({"data": data, "plan": plan.to_dict(), "compare": measured.to_dict()})
    parts = [
        f"data: {samples.source}; the run takes {plural(x.shape[0], 'row')} of {x.dtype}",
        *([f"note: {samples.note}"] if samples.note else []),
        f"layer: gelu(x @ W + b), W {x.shape[1]} x {DEMO_COLUMNS}, fixed seed",
        "",
        str(plan),
        "",
        traffic_table(plan.traffic),
        "",
        str(measured),
        "",
        summary(measured),
    ]
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Samples:
    """The demo's data and where it is from."""

    source: str
    note: str  # "" where there is nothing to say
    array: Array


def demo_samples(path: Path | None, rows: int | None) -> Samples:
    """The matrix the demo runs on."""
    if path is not None:
        array = load_array(path)
        if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{path}: {array.dtype}{list(array.shape)}; the demo needs a matrix of real numbers"
            )
        wide = array if array.dtype.kind == "f" else array.astype(np.float32)
        return Samples(str(path), "", wide if rows is None else _repeated(wide, rows))
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        pixels = np.random.default_rng(0).integers(0, 17, DIGITS)
        source = f"generated numbers, {DIGITS[0]:,} x {DIGITS[1]}"
        note = (
            "scikit-learn is not installed: pip install 'fusegraph[examples]' for its handwritten "
            "digits, or give a matrix with --data FILE.npy"
        )
    else:
        pixels = datasets.load_digits().data
        source, note = f"scikit-learn's digits, {pixels.shape[0]:,} x {pixels.shape[1]}", ""
    return Samples(source, note, _repeated((pixels / 16).astype(np.float32), rows or DEMO_ROWS))


def _repeated(array: Array, rows: int) -> Array:
    return np.resize(array, (rows, array.shape[1]))


def traffic_table(traffic: Traffic) -> str:
    """Modelled cost before and after fusion, a row a quantity."""
    quantities: list[tuple[str, Callable[[Cost], str]]] = [
        ("bytes read", lambda cost: bytes_text(cost.bytes_read)),
        ("bytes written", lambda cost: bytes_text(cost.bytes_written)),
        ("pages mapped", lambda cost: bytes_text(cost.bytes_first_touch)),
        ("flops", lambda cost: count_text(cost.flops)),
        ("flop/byte", lambda cost: f"{cost.arithmetic_intensity:.2f}"),
    ]
    rows = [(name, shown(traffic.before), shown(traffic.after)) for name, shown in quantities]
    return table(rows, ("traffic (modelled)", "before", "after"), "lrr")
