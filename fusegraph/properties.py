"""Properties that are made when they are first asked for.

In: a method. Out: a property that keeps what it returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Lazy(Generic[T]):
    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make = make
        self.name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # for those who read documentation
        return vars(instance).setdefault(self.name, self.make(instance))  # type: ignore[no-any-return]


def lazy_property(make: Callable[[Any], T]) -> _Lazy[T]:
    """``functools.cached_property`` as it is from Python 3.12 on.

    Before, it has one lock for a property of all objects: threads that have nothing in common take
    turns, and in a child forked while one of them made a value nobody can make one.
    """
    return _Lazy(make)
