"""The command ``fusegraph explain``: the plan of an expression over arrays of shapes or files."""

from __future__ import annotations

import argparse
import keyword
from typing import Any

import numpy as np

from fusegraph.arguments import UsageError, add_command, add_planning, load_array
from fusegraph.arrays import checked_dtype
from fusegraph.bound_plan import BoundPlan, bind
from fusegraph.commands.comparison import compared, summary
from fusegraph.graph import Array
from fusegraph.options import current_options
from fusegraph.parse import names_in, parse_expression
from fusegraph.report.documents import document
from fusegraph.report.text import STAGES
from fusegraph.tensor import Tensor


def add_explain(commands: Any) -> None:
    """Register the command."""
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
    add_planning(parser)
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


def input_names(plan: BoundPlan, tensors: dict[str, Tensor]) -> dict[str, str]:
    """The plan's name of each input to the user's: ``{"v0": "x"}``."""
    given = {tensor.node: name for name, tensor in tensors.items()}
    leaves = [node for node in plan.graph.nodes if node.kind == "input"]
    return {f"v{slot}": given[leaf] for slot, leaf in enumerate(leaves) if leaf in given}


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
