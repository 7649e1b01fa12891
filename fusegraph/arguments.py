"""Arguments: what the commands share in reading what was typed.

In: text. Out: values, arrays of files among them, or an error that names what is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.graph import Array


class UsageError(Exception):
    """What was typed is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse with its errors on one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_command(commands: Any, command: Callable[[Any], str], text: str, **more: Any) -> Parser:
    """A command named like its function, with ``--json``."""
    parser: Parser = commands.add_parser(
        command.__name__, help=text, description=text, allow_abbrev=False, **more
    )
    parser.set_defaults(command=command)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def add_planning(parser: Parser) -> None:
    """The options of commands that plan: ``--engine`` and ``--threads``."""
    engines = ("auto", *ELEMENTWISE_ENGINES)
    parser.add_argument("--engine", choices=engines, help="what runs the kernels (default: auto)")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="at most N threads (default: all cores)"
    )


def positive(text: str) -> int:
    """A positive integer, for argparse."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer")
    return value


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
