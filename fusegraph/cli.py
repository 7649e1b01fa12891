"""The command line: a demo, the plan of an expression, the profile of this machine, benchmarks.

In: arguments. Out: text or one JSON document on stdout, errors as one line on stderr, and an exit code:
0 fine, 1 a run failed, 2 what was typed is wrong, 130 interrupted, 141 nobody reads the output.
"""

from __future__ import annotations

import argparse
import importlib
import keyword
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fusegraph
from fusegraph.arguments import Parser, UsageError, add_command, positive
from fusegraph.arrays import checked_dtype
from fusegraph.bench.command import add_bench
from fusegraph.bound import BoundPlan, bind
from fusegraph.calibrate import current_machine, recalibrate
from fusegraph.compare import Comparison, compare
from fusegraph.cost import Cost, Traffic
from fusegraph.elementwise import gelu
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.graph import Array
from fusegraph.machine import Machine
from fusegraph.options import current_options, options
from fusegraph.parse import names_in, parse_expression
from fusegraph.report.documents import document
from fusegraph.report.tables import table
from fusegraph.report.text import STAGES
from fusegraph.report.units import bytes_text, count_text, plural, seconds_text
from fusegraph.tensor import Tensor

FINE, FAILED, USAGE, INTERRUPTED, NOT_READ = 0, 1, 2, 130, 141

DEMO_ROWS = 20_000  # the digits are repeated to this many, so that a run takes milliseconds
DEMO_COLUMNS = 256
DIGITS = (1797, 64)

MANY_ULPS = 16  # four times what the rows of the op table promise
NEAR_ZERO = (
    "\nMany ulps beside a tiny difference are values near zero: an ulp is a unit in the last place "
    "of the value itself."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    try:
        args = build_parser().parse_args(argv)
        chosen = {name: getattr(args, name) for name in ("engine", "fuse", "exact", "threads")
                  if getattr(args, name, None) is not None}  # fmt: skip
        with options(**chosen):
            text = args.command(args)
        print(text)
        sys.stdout.flush()
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except UsageError as error:
        return _complain(error, USAGE)
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_READ
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, TypeError, ArithmeticError, MemoryError, RuntimeError) as error:
        return _complain(error, FAILED)
    return FINE


def _complain(error: Exception, code: int) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    said = " ".join(text.split()) or type(error).__name__
    print(f"fusegraph: {said}", file=sys.stderr)
    return code


# --- arguments ------------------------------------------------------------------------------------


def build_parser() -> Parser:
    """The commands and their arguments."""
    parser = Parser(
        prog="fusegraph", allow_abbrev=False, description="A fusion compiler for NumPy."
    )
    parser.add_argument("--version", action="version", version=f"fusegraph {fusegraph.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_explain(commands)
    _add_machine(commands)
    add_bench(commands)
    return parser


def _add_planning(parser: Parser) -> None:
    engines = ("auto", *ELEMENTWISE_ENGINES)
    parser.add_argument("--engine", choices=engines, help="what runs the kernels (default: auto)")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="at most N threads (default: all cores)"
    )


def _add_demo(commands: Any) -> None:
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
    _add_planning(parser)


def _add_explain(commands: Any) -> None:
    parser = add_command(
        commands, explain, "Show the plan of an array expression.",
        epilog="An expression that begins with a minus sign goes in parentheses. Example: "
        'fusegraph explain "0.5 * x * (1 + tanh(x))" --shape x=4000000 --dtype float32',
    )  # fmt: skip
    parser.add_argument("expression", metavar="EXPRESSION", help="operators and calls on names")
    parser.add_argument(
        "--shape", action="append", default=[], type=_shape, metavar="NAME=N[,N...]",
        help="a name stands for an array of this shape",
    )  # fmt: skip
    parser.add_argument(
        "--data", action="append", default=[], type=_named, metavar="NAME=FILE.npy",
        help="a name stands for the array in a file",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", action="append", default=[], type=_dtype, metavar="[NAME=]DTYPE",
        help="dtype of one --shape, or of all (default: float64)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=tuple(STAGES), default="planned", help="what to show (default: planned)"
    )
    _add_planning(parser)
    parser.add_argument(
        "--no-fuse", dest="fuse", action="store_false", default=None, help="plan without fusion"
    )
    parser.add_argument(
        "--exact", action="store_true", default=None, help="only kernels with NumPy's very bits"
    )
    parser.add_argument(
        "--run", action="store_true",
        help="run it beside NumPy too; a --shape holds random values in [0, 1), or integers 1 to 9",
    )  # fmt: skip


def _add_machine(commands: Any) -> None:
    parser = add_command(commands, machine, "Show what the cost model knows of this machine.")
    parser.add_argument("--recalibrate", action="store_true", help="measure it again first")


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier() or keyword.iskeyword(name):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=...")
    return name, value


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, sizes = _named(text)
    parts = [part.strip() for part in sizes.strip("()[]").replace("x", ",").split(",")]
    parts = [part for part in parts if part]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=N,N,...")
    return name, tuple(int(part) for part in parts)


def _dtype(text: str) -> tuple[str, np.dtype[Any]]:
    name, equals, value = text.rpartition("=")
    try:
        return (_named(text)[0] if equals else name), checked_dtype(value)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- arrays ---------------------------------------------------------------------------------------


def load_array(path: str | Path, mapped: bool = False) -> Array:
    """The array of a ``.npy`` file; ``mapped`` leaves it on disk until it is read.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It holds no array, or Python objects, which are never unpickled.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: no .npy file of numbers ({error})") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path}: a .npz archive; save one array with np.save")
    return array


def named_arrays(args: argparse.Namespace) -> dict[str, Array]:
    """The arrays that ``--shape``, ``--data`` and ``--dtype`` describe."""
    dtypes: dict[str, Any] = dict(args.dtype)
    names = [name for name, _ in (*args.shape, *args.data)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is given twice")
    for name, dtype in dtypes.items():
        if name and name not in dict(args.shape):
            raise UsageError(f"--dtype {name}={dtype}: there is no --shape {name}=...")
    default = dtypes.get("", np.dtype(float))
    arrays = {
        name: _blank(name, shape, dtypes.get(name, default), args.run) for name, shape in args.shape
    }
    arrays.update({name: load_array(path, mapped=True) for name, path in args.data})
    return arrays


def _blank(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], filled: bool) -> Array:
    """An array to plan with, whose pages the system never has to map; or random values to run with."""
    try:
        array = np.empty(shape, dtype)
    except (ValueError, MemoryError) as error:
        raise UsageError(
            f"--shape {name}: {list(shape)} does not fit in memory ({error})"
        ) from None
    if filled:
        generator = np.random.default_rng(0)
        integers = dtype.kind in "iu"
        array[...] = generator.integers(1, 10, shape) if integers else generator.random(shape)
        if dtype.kind == "b":
            array[...] = generator.random(shape) < 0.5
    return array


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


# --- commands -------------------------------------------------------------------------------------


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


def explain(args: argparse.Namespace) -> str:
    """The plan of an expression."""
    tensors = {name: Tensor(array) for name, array in named_arrays(args).items()}
    try:
        result = parse_expression(args.expression, tensors)
    except (ValueError, ImportError) as error:  # erf without scipy
        raise UsageError(str(error)) from error
    mentioned = names_in(args.expression)
    unused = [name for name in tensors if name not in mentioned]
    if unused:
        raise UsageError(f"{', '.join(unused)}: given, but the expression has no such name")
    plan = bind([result.node], current_options())
    names = input_names(plan, tensors)
    if args.run and not plan.kernels:
        raise UsageError(f"--run: {args.expression!r} has nothing to run")
    measured = compared(result) if args.run else None
    if args.json:
        facts: dict[str, Any] = {"expression": args.expression, "names": names}
        if args.stage != "planned":
            facts["stage"] = {"name": args.stage, "text": plan.explain(args.stage)}
        facts["plan"] = plan.to_dict()
        if measured is not None:
            facts["compare"] = measured.to_dict()
        return document(facts)
    parts = [plan.explain(args.stage)]
    if names:
        legend = ", ".join(f"{value} is {name}" for value, name in names.items())
        parts += ["", f"names: {legend}"]
    if measured is not None:
        parts += ["", str(measured), "", summary(measured)]
    return "\n".join(parts)


def machine(args: argparse.Namespace) -> str:
    """The profile of this machine."""
    profile = recalibrate() if args.recalibrate else current_machine()
    return document(profile.to_dict()) if args.json else machine_text(profile)


def compared(tensor: Tensor) -> Comparison:
    """Every way to run ``tensor``; NumPy's warnings about values belong to the data, not here."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return compare(tensor)


def input_names(plan: BoundPlan, tensors: dict[str, Tensor]) -> dict[str, str]:
    """The plan's name of each input to the user's: ``{"v0": "x"}``."""
    given = {tensor.node: name for name, tensor in tensors.items()}
    leaves = [node for node in plan.graph.nodes if node.kind == "input"]
    return {f"v{slot}": given[leaf] for slot, leaf in enumerate(leaves) if leaf in given}


# --- text and JSON --------------------------------------------------------------------------------


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


def machine_text(profile: Machine) -> str:
    """A profile as tables."""
    facts = [
        ("profile", profile.name),
        ("cores", str(profile.cores)),
        ("caches", f"L1 {profile.l1_bytes / 1024:,.0f} KiB, L2 {profile.l2_bytes / 1024:,.0f} KiB, "
         f"L3 {profile.l3_bytes / 1024:,.0f} KiB"),
    ]  # fmt: skip
    facts += [(f"launch {e}", seconds_text(s)) for e, s in profile.launch.items()]
    facts += [(f"step {e}", seconds_text(s)) for e, s in profile.step.items()]
    facts += [
        ("waking", seconds_text(profile.waking)),
        ("handover", seconds_text(profile.handover)),
    ]
    streams = [(*key.split(), f"{speed / 1e9:.1f}") for key, speed in profile.streams.items()]
    products = [
        (dtype, f"{one:.1f}", f"{profile.gigaflops_all[dtype]:.1f}")
        for dtype, one in profile.gigaflops.items()
    ]
    rows = [(*key.rsplit(" ", 2), f"{ns:.3f}") for key, ns in profile.nanoseconds.items()]
    tables = [
        table(facts, (), "ll"),
        table(streams, ("stream", "level", "threads", "GB/s"), "lllr"),
        table(products, ("product", "GFLOP/s of one thread", "of all"), "lrr"),
        table(rows, ("engine", "op", "dtype", "ns an element"), "lllr"),
    ]
    return "\n\n".join(tables)
