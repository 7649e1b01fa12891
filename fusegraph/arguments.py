"""Arguments: what the commands share in reading what was typed.

In: text. Out: values, or an error that names what is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn


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


def positive(text: str) -> int:
    """A positive integer, for argparse."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer")
    return value
