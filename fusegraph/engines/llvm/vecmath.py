"""Vector math: the functions of the op table that LLVM has no instruction for, as IR.

In: a row's name and a type. Out: the definition of a function that inlines and vectorises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TABLE: dict[str, Callable[..., Any]] = {}
"""What writes each function, by the name of its row."""


def symbol(name: str, type_name: str) -> str:
    """What a function is called in IR."""
    return f"fg_{name}_{'f64' if type_name == 'double' else 'f32'}"


def definition(name: str, type_name: str) -> str:
    """The definition of a function in IR."""
    raise KeyError(name)


def declarations(name: str, type_name: str) -> tuple[str, ...]:
    """``declare`` lines of what its definition calls."""
    raise KeyError(name)
