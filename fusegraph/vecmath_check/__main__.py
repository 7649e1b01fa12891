"""The command: measure the errors of the vector math, and fail where one passes its bound.

In: arguments. Out: a table on stdout, a JSON document where asked for, and an exit code: 0 fine, 1 a
bound is passed or a special value is not NumPy's, 2 what was typed is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fusegraph.arguments import Parser, UsageError, positive
from fusegraph.engines.llvm.compiler import REMEDY, installed
from fusegraph.processor import available_cores
from fusegraph.vecmath_check.measurement import Finding, measure
from fusegraph.vecmath_check.record import document
from fusegraph.vecmath_check.references import load_packages
from fusegraph.vecmath_check.subjects import TYPES, Subject, subjects

DESCRIPTION = (
    "Measure the errors of the functions that fusegraph compiles (exp, tanh, pow, ...): a row each "
    "with the largest error in units in the last place, where it is, and what is promised. The exit "
    "code is 1 where an error is larger than that, or a special value is not NumPy's."
)

COLUMNS = ("function", "dtype", "points", "ulps", "bound", "at", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    try:
        options = _parser().parse_args(arguments)
        chosen = _chosen(options)
        _check_packages(chosen)
        _check_json(options.json)
    except UsageError as error:
        print(f"fusegraph.vecmath_check: {error}", file=sys.stderr)
        return 2
    findings = []
    print("  ".join(COLUMNS))
    for subject in chosen:
        start = time.perf_counter()
        found = measure(subject, options.sample, options.threads)
        findings.append(found)
        print(_line(found, time.perf_counter() - start), flush=True)
        for text in found.special:
            print(f"    {text}")
    if options.json:
        options.json.write_text(json.dumps(document(findings), indent=1) + "\n")
    failed = [f"{found.name} of {found.dtype}" for found in findings if not found.fine]
    if failed:
        print(f"not within bounds: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m fusegraph.vecmath_check", allow_abbrev=False, description=DESCRIPTION
    )
    add = parser.add_argument
    add("--only", metavar="NAME,NAME", help="functions; all of them by default")
    add("--dtype", choices=tuple(TYPES), help="one dtype; both by default")
    add("--sample", type=positive, metavar="N",
        help="points a function; default: every float32 of one argument, else 10,000,000")  # fmt: skip
    add("--threads", type=positive, default=available_cores(), metavar="N",
        help="default: the cores there are")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the findings there")
    return parser


def _chosen(options: argparse.Namespace) -> list[Subject]:
    """The functions that were asked for."""
    names = () if options.only is None else tuple(n.strip() for n in options.only.split(","))
    known = list(dict.fromkeys(subject.name for subject in subjects()))
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"--only: there is no function {unknown[0]!r}; the functions are {', '.join(known)}"
        )
    return subjects(names, (options.dtype,) if options.dtype else tuple(TYPES))


def _check_packages(chosen: Sequence[Subject]) -> None:
    """Say before a long run that it could not end."""
    if not installed():
        raise UsageError(REMEDY)
    try:
        for subject in chosen:
            load_packages(subject)
    except ImportError as error:
        raise UsageError(str(error)) from None


def _check_json(path: Path | None) -> None:
    """Say before a long run that its findings could not be written."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageError(f"--json {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"--json {path}: it is a folder; give the name of a file in it")


def _points_text(found: Finding) -> str:
    return "all 2^32" if found.exhaustive else f"{found.points:,}"


def _line(found: Finding, seconds: float) -> str:
    at = ", ".join(x.hex() for x in found.at)
    cells = (
        f"{found.name:<10}", found.dtype, f"{_points_text(found):>11}", f"{found.ulps:.3f}",
        f"{found.bound:g}", at, f"{seconds:.1f}", "" if found.fine else "FAILS",
    )  # fmt: skip
    return "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
