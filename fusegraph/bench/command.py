"""The command ``fusegraph bench``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fusegraph.arguments import UsageError, add_command, positive
from fusegraph.bench.pictures import draw_results, picture_formats
from fusegraph.bench.race import run_suite
from fusegraph.bench.results import AUTO, NUMPY, RowResult
from fusegraph.bench.runners import RUNNERS
from fusegraph.bench.suite import Row, matching_rows
from fusegraph.bench.tables import progress_text, results_text, suite_table
from fusegraph.report.documents import document

REPEATS = 15


def add_bench(commands: Any) -> None:
    """Register the command."""
    peers = [name for name in RUNNERS if name not in (AUTO, NUMPY)]
    parser = add_command(
        commands, bench, "Run a suite beside NumPy and its peers that are installed."
    )
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="PATTERN",
        help="rows by name (shell patterns) or group; all by default",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, metavar="NAME",
        help=f"beside NumPy, of {', '.join(peers)}; all that are installed by default",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=positive, default=REPEATS, metavar="N",
        help=f"rounds of batches (default: {REPEATS})",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="show the rows and run nothing")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the ratios to each peer (extra viz); its ending says how",
    )


def bench(args: argparse.Namespace) -> str:
    """The suite, or what of it was asked for."""
    try:
        rows = matching_rows(args.rows)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.list:
        return _listed(rows, args.json)
    if args.plot is not None:
        _check_plot(args.plot)

    def told(at: int, row: RowResult) -> None:
        print(progress_text(at, len(rows), row), file=sys.stderr, flush=True)

    results = run_suite(rows, [AUTO, NUMPY, *args.peers], args.repeats, told)
    if args.plot is not None:
        draw_results(results, args.plot)
    return document(results.to_dict()) if args.json else results_text(results)


def _check_plot(path: Path) -> None:
    """Say before a long run that its picture could not be written."""
    try:
        formats = picture_formats()
    except ImportError as error:
        raise UsageError(str(error)) from None
    if path.suffix.removeprefix(".") not in formats:
        raise UsageError(f"--plot {path}: the ending is none of {', '.join(formats)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def _listed(rows: tuple[Row, ...], as_json: bool) -> str:
    if not as_json:
        return suite_table(rows)
    facts = [
        {"name": r.name, "group": r.group, "dtype": r.dtype, "shapes": [list(s) for s in r.shapes]}
        for r in rows
    ]
    return document({"rows": facts})
