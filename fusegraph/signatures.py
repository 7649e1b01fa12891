"""Signatures: what a jit function's plan depends on, as a key, and the arrays among its arguments.

In: arguments. Out: the arrays in order and a key; the key for any size; a key as text; or an error that
names the argument that can be no part of one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegraph.arrays import checked_array
from fusegraph.orders import layout_key
from fusegraph.tensor import Tensor, as_node

Key = tuple[Any, ...]


def name_of(function: Any) -> str:
    """What a function is called, or what kind of thing it is."""
    return getattr(function, "__name__", type(function).__name__)


def _holds_arrays(value: Any) -> bool:
    """Is it a list or tuple with arrays somewhere in it? A list of numbers is an array itself."""
    return isinstance(value, (list, tuple)) and any(
        isinstance(v, (np.ndarray, Tensor, dict, list, tuple))  # one look at each of many numbers
        and (not isinstance(v, (list, tuple)) or _holds_arrays(v))
        for v in value
    )


def is_array(value: Any) -> bool:
    """Is an argument an array, or what becomes one: a list, NumPy's scalar?"""
    return isinstance(value, (np.ndarray, list, np.generic))


def arguments_of(args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[list[Any], Key]:
    """The array arguments in order, and a key of everything a plan depends on."""
    arrays: list[Any] = []
    key: list[Any] = []
    for value in args:
        _add_argument(value, arrays, key)
    for name, value in sorted(keywords.items()):
        key.append(name)
        _add_argument(value, arrays, key)
    return arrays, tuple(key)


def _add_argument(value: Any, arrays: list[Any], key: list[Any]) -> None:
    if type(value) is np.ndarray:
        if not value.dtype.isnative:
            value = checked_array(value)
        arrays.append(value)
        key.append((value.dtype, value.shape, *layout_key(value)))
    elif is_array(value) and not _holds_arrays(value):
        array = as_node(value).data
        arrays.append(array)
        key.append((array.dtype, array.shape, *layout_key(array)))
    else:
        key.append(_constant_key(value))


def _constant_key(value: Any) -> tuple[type, Any]:
    """What stands for an argument that is no array: 1, 1.0 and True are equal and give other dtypes.

    NaN equals nothing and 0.0 equals -0.0: floats go by their text. Of a dataclass this holds for every
    field.

    Raises
    ------
    TypeError
        It holds an array, or has no hash.
    """
    if isinstance(value, Tensor):
        raise TypeError("a Tensor inside an argument has no value yet that could be part of a key")
    if isinstance(value, (tuple, frozenset)):
        together = tuple if isinstance(value, tuple) else frozenset
        return type(value), together(map(_constant_key, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hash(value)  # one that has none is refused
        held = tuple(_constant_key(getattr(value, f.name)) for f in dataclasses.fields(value))
        return type(value), _Held(value, held)
    return type(value), repr(value) if isinstance(value, (float, complex)) else value


@dataclass(frozen=True, slots=True)
class _Held:
    """An object in a key, and what it holds."""

    value: Any
    fields: tuple[Any, ...]

    def __repr__(self) -> str:
        return repr(self.value)


def any_size(key: Key) -> Key:
    """A key without sizes: what broadcasts (a size of 1) and what is empty stays."""
    return ("any size", *(
        (part[0], tuple(min(n, 2) for n in part[1]), *part[2:])
        if isinstance(part, tuple) and isinstance(part[0], np.dtype) else part
        for part in key
    ))  # fmt: skip


def signature_text(key: Key) -> str:
    """A key as ``cache_info`` shows it: ``float32[n, n], 2.0``."""
    general = key[:1] == ("any size",)
    shown = []
    for part in key[1:] if general else key:
        if isinstance(part, tuple) and isinstance(part[0], np.dtype):
            sizes = ["n" if general and n > 1 else str(n) for n in part[1]]
            shown.append(f"{part[0]}[{', '.join(sizes)}]")
        else:
            shown.append(_constant_text(part) if isinstance(part, tuple) else str(part))
    return ", ".join(shown)


def _constant_text(key: tuple[type, Any]) -> str:
    """The value that :func:`_constant_key` made ``key`` of, in Python's spelling."""
    kind, value = key
    if issubclass(kind, tuple):
        parts = ", ".join(map(_constant_text, value))
        return f"({parts},)" if len(value) == 1 else f"({parts})"
    if issubclass(kind, frozenset):
        return f"frozenset({{{', '.join(sorted(map(_constant_text, value)))}}})"
    return value if issubclass(kind, (float, complex)) else repr(value)


def refuse_unhashable(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Raise for the first argument that can be no part of a signature, and name it."""
    named = [(f"argument {at}", value) for at, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in keywords.items()]
    for name, value in named:
        if is_array(value) and not _holds_arrays(value):
            continue
        held = _unkeyed(value)
        if held:
            raise TypeError(
                f"jit: {name} of {name_of(function)} is {held}; pass each array as an argument of its "
                "own, and what is no array as a number, a string or a tuple of these"
            )


def _unkeyed(value: Any) -> str:
    """What keeps a value out of a signature; nothing where it may be part of one."""
    kind = type(value).__name__
    if _holds_arrays(value):
        return f"a {kind} of arrays"
    try:
        hash(_constant_key(value))
    except TypeError:
        return "a Tensor" if isinstance(value, Tensor) else f"a {kind}, which has no hash"
    return ""
