"""Options: what a user may ask of planning and running, checked once, here.

In: keywords. Out: an immutable ``Options``, or an error that names the option and its values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from fusegraph.engines import ELEMENTWISE_ENGINES, REMEDIES
from fusegraph.machine import REMEDY, Machine, positive_integer
from fusegraph.processor import available_cores


@dataclass(frozen=True, slots=True)
class Options:
    """How graphs are planned and run. A tensor that is computed runs nothing more, whatever they are.

    Attributes
    ----------
    engine : str
        ``auto`` keeps each kernel on NumPy, unless another engine is predicted to save a fifth of its
        time, and compiles it at the call from which on that pays; a name sends every kernel to that
        engine that it can run.
    fuse : bool
        False runs every operation as a kernel of its own, as NumPy does.
    exact : bool
        True keeps to kernels whose results are NumPy's bits.
    threads : int or None
        Upper bound of threads, BLAS included; None: the cores this process may use.
        A kernel has no more than the machine has cores.
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
            if value is not None:
                advice = "give a positive integer or None"
                number = positive_integer(f"option {name}", value, advice)
                if type(value) is not int:
                    object.__setattr__(self, name, number)
        if self.machine is not None:
            _check_machine(self.machine)

    @property
    def thread_count(self) -> int:
        return self.threads or available_cores()

    @property
    def bits(self) -> bool:
        """Are results of floats NumPy's to the last bit?"""
        return self.exact or self.engine == "numpy"


def _check_machine(machine: Any) -> None:
    """Refuse what is no profile, or one that knows nothing of an engine that plans may choose."""
    if not isinstance(machine, Machine):
        raise TypeError(f"option machine={machine!r}: give a fusegraph.Machine or None")
    if unknown := [name for name in ELEMENTWISE_ENGINES if name not in machine.launch]:
        raise ValueError(
            f"option machine: the profile {machine.name!r} has no figures of the engine {unknown[0]}; "
            f"{REMEDY}"
        )


_DEFAULT = Options()
_current: ContextVar[Options] = ContextVar("fusegraph_options", default=_DEFAULT)
# The blocks that have begun here, the inmost last, each with the options outside of it.
_blocks: ContextVar[tuple[tuple[options, Options], ...]] = ContextVar(
    "fusegraph_blocks", default=()
)
_NAMES = tuple(f.name for f in fields(Options))
_Function = TypeVar("_Function", bound=Callable[..., Any])
_RUN_LATER = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


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


class options(ContextDecorator):  # noqa: N801  (called as a function, as contextlib's are)
    """Set options for a ``with`` block, or for the calls of a function that it decorates.

    They hold in this thread (or task) only. One object serves any number of blocks, within each other
    and in several threads, and adds to the options that are in force where a block begins.

    Parameters
    ----------
    **changes
        Options, see :class:`Options`; they are checked here, not where a block begins.

    Raises
    ------
    TypeError
        An unknown option, or a value of the wrong type.
    ValueError
        A value out of range.

    Examples
    --------
    >>> plain = options(engine="numpy", fuse=False)
    >>> with plain:
    ...     current_options().fuse
    False
    >>> with plain, options(fuse=True) as inner:
    ...     inner.engine, inner.fuse
    ('numpy', True)
    """

    def __init__(self, **changes: Any) -> None:
        self._changes = changes
        # Most blocks begin where they are written, in these options: they are merged once.
        self._outer = _current.get()
        self._merged = current_options(**changes)

    def __enter__(self) -> Options:
        outer = _current.get()
        merged = self._merged if outer is self._outer else current_options(**self._changes)
        # Not kept in the object: other threads and tasks, and an outer block, may have it too.
        _blocks.set((*_blocks.get(), (self, outer)))
        _current.set(merged)
        return merged

    def __exit__(self, *_: object) -> None:
        blocks = _blocks.get()
        while blocks:  # a block inside of this one that has not ended (a generator's) ends too
            (block, outer), blocks = blocks[-1], blocks[:-1]
            if block is self:
                _blocks.set(blocks)
                _current.set(outer)
                return

    def __call__(self, function: _Function) -> _Function:
        """``function`` with these options in force while it runs.

        Raises
        ------
        TypeError
            It runs after its call has returned: a coroutine function or a generator.
        """
        if any(kind(function) for kind in _RUN_LATER):
            raise TypeError(
                f"options: {getattr(function, '__name__', function)} is a coroutine function or a "
                "generator, which runs after its call has returned; write `with fg.options(...)` in it"
            )
        return super().__call__(function)
