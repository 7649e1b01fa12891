"""Forks: a child has one of its parent's threads, and nothing that another was in the midst of.

In: what to do in a child. Out: locks that are held while the process forks; calls in the child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary


class Locks:
    """Locks that are taken before a fork, and given back in the parent and in the child.

    Whoever forks waits until no other thread is inside of one. A hook for each would wait for it with
    the others in hand: for ever, where the thread inside waits for one of those. So none is in hand
    here while one is waited for, and code may nest them in any order.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._taken: dict[int, list[Any]] = {}  # by each thread that forks

    def add(self, lock: Any) -> None:
        """Take this one too, for as long as it lives."""
        self._known[id(lock)] = lock

    def take(self) -> None:
        """Wait until all are free at one time; an interrupt is raised when they are taken."""
        locks = [lock for known in self._known.valuerefs() if (lock := known()) is not None]
        self._taken[threading.get_ident()] = order = locks
        interrupted: BaseException | None = None
        while True:
            try:
                busy = _take_all(order)
                if busy < 0:
                    break
                order = [order[busy], *order[:busy], *order[busy + 1 :]]
            except BaseException as error:  # of a signal
                interrupted = error
                _release(locks)
        if interrupted is not None:
            raise interrupted

    def give_back(self) -> None:
        """What this thread has taken."""
        _release(self._taken.pop(threading.get_ident(), []))


def _take_all(locks: list[Any]) -> int:
    """Wait for the first lock and take them all; where one is not free, take none and tell its place."""
    for at, lock in enumerate(locks):
        if not lock.acquire(blocking=at == 0):
            _release(locks[:at])
            return at
    return -1


def _release(locks: list[Any]) -> None:
    for lock in locks:
        with suppress(RuntimeError):  # an interrupt came before it was taken
            lock.release()


_LOCKS = Locks()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_LOCKS.take, after_in_parent=_LOCKS.give_back, after_in_child=_LOCKS.give_back
    )


def lock() -> Any:
    """A lock that a forked child finds free, and what it guards whole.

    The thread that has it may take it again: a signal's handler may fork in the midst of what it guards.
    """
    made = threading.RLock()
    _LOCKS.add(made)
    return made


def in_child(act: Callable[[], object]) -> None:
    """Call ``act`` in every forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)
