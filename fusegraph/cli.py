"""The command line: a demo, the plan of an expression, the profile of this machine, benchmarks.

In: arguments. Out: text or one JSON document on stdout, errors as one line on stderr, and an exit code:
0 fine, 1 a run failed, 2 what was typed is wrong, 130 interrupted, 141 nobody reads the output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import fusegraph
from fusegraph.arguments import Parser, UsageError
from fusegraph.bench.command import add_bench
from fusegraph.commands.demo import add_demo
from fusegraph.commands.explain import add_explain
from fusegraph.commands.machine import add_machine
from fusegraph.options import options

FINE, FAILED, USAGE, INTERRUPTED, NOT_READ = 0, 1, 2, 130, 141


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


def build_parser() -> Parser:
    """The commands and their arguments."""
    parser = Parser(
        prog="fusegraph", allow_abbrev=False, description="A fusion compiler for NumPy."
    )
    parser.add_argument("--version", action="version", version=f"fusegraph {fusegraph.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_demo(commands)
    add_explain(commands)
    add_machine(commands)
    add_bench(commands)
    return parser
