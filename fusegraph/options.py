"""Options: what a user may ask of planning and running, checked once, here.

In: keywords. Out: an immutable ``Options``, or an error that names the option and its values.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any

from fusegraph.engines import ELEMENTWISE_ENGINES, REMEDIES
from fusegraph.machine import Machine, available_cores


@dataclass(frozen=True, slots=True)
class Options:
    """How graphs are planned and run. A tensor that is computed runs nothing more, whatever they are.

    Attributes
    ----------
    engine : str
        ``auto`` takes the engine with the least predicted time for each kernel; a name sends every
        kernel to that engine that it can run.
    fuse : bool
        False runs every operation as a kernel of its own, as NumPy does.
    exact : bool
        True keeps to kernels whose results are NumPy's bits.
    threads : int or None
        Upper bound of threads, BLAS included; None: the cores this process may use.
    verify : bool
        Check every stage's output against its invariants.
    memory_limit : int or None
        Bytes; a plan that may need more is refused before it runs.
    trace_source : bool
        Nodes remember the user's file and line; equal expressions on two lines stay apart.
    machine : Machine or None
        Plan for this profile instead of the one measured here.
    """

    engine: str = "auto"
    fuse: bool = True
    exact: bool = False
    threads: int | None = None
    verify: bool = False
    memory_limit: int | None = None
    trace_source: bool = False
    machine: Machine | None = None

    def __post_init__(self) -> None:
        engines = ("auto", *ELEMENTWISE_ENGINES)
        if self.engine not in engines:
            if remedy := REMEDIES.get(str(self.engine)):
                raise ImportError(remedy)
            raise ValueError(f"option engine={self.engine!r}: choose one of {', '.join(engines)}")
        for name in ("fuse", "exact", "verify", "trace_source"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"option {name}={getattr(self, name)!r}: give True or False")
        for name in ("threads", "memory_limit"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                number = operator.index(value)
            except TypeError:
                number = None
            if number is None or isinstance(value, bool):
                raise TypeError(f"option {name}={value!r}: give a positive integer or None")
            if number < 1:
                raise ValueError(f"option {name}={value!r}: give a positive integer or None")
            if type(value) is not int:
                object.__setattr__(self, name, number)  # NumPy's integers, as Python's
        if self.machine is not None and not isinstance(self.machine, Machine):
            raise TypeError(f"option machine={self.machine!r}: give a fusegraph.Machine or None")

    @property
    def thread_count(self) -> int:
        return self.threads or available_cores()

    @property
    def bits(self) -> bool:
        """Are results of floats NumPy's to the last bit?"""
        return self.exact or self.engine == "numpy"


_DEFAULT = Options()
_current: ContextVar[Options] = ContextVar("fusegraph_options", default=_DEFAULT)
_NAMES = tuple(f.name for f in fields(Options))


def current_options(**changes: Any) -> Options:
    """The options in force here, with ``changes``.

    Raises
    ------
    TypeError
        An unknown option, or a value of the wrong type.
    ValueError
        A value out of range.
    """
    options = _current.get()
    if not changes:
        return options
    unknown = [name for name in changes if name not in _NAMES]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}: the options are {', '.join(_NAMES)}")
    return replace(options, **changes)


@contextmanager
def options(**changes: Any) -> Iterator[Options]:
    """Set options for a ``with`` block; they hold in this thread (or task) only."""
    token = _current.set(current_options(**changes))
    try:
        yield _current.get()
    finally:
        _current.reset(token)
