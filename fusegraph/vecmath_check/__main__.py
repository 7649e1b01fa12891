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

from fusegraph.machine import available_cores
from fusegraph.vecmath_check.measurement import Finding, measure
from fusegraph.vecmath_check.record import document
from fusegraph.vecmath_check.subjects import TYPES, subjects

COLUMNS = ("function", "dtype", "points", "ulps", "bound", "at", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    names = tuple(options.only.split(",")) if options.only else ()
    chosen = subjects(names, (options.dtype,) if options.dtype else tuple(TYPES))
    unknown = set(names) - {subject.name for subject in chosen}
    if unknown:
        parser.error(f"there is no function {', '.join(sorted(unknown))}")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fusegraph.vecmath_check", description=__doc__)
    add = parser.add_argument
    add("--only", metavar="NAME,NAME", help="functions; all of them by default")
    add("--dtype", choices=tuple(TYPES), help="one dtype; both by default")
    add("--sample", type=int, metavar="N",
        help="points a function; default: every float32 of one argument, else 10,000,000")  # fmt: skip
    add("--threads", type=int, default=available_cores(), help="default: the cores there are")
    add("--json", type=Path, metavar="FILE", help="write the findings there")
    return parser


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
