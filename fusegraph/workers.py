"""Workers: a few threads that take tasks from a common counter.

In: a task over an index. Out: nothing; an exception of any task is raised in the caller. The caller
works too, so one thread means no hand-over at all. An interrupted caller waits until every worker has
let go of its arrays.
"""

from __future__ import annotations

import contextvars
import ctypes
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

Task = Callable[[int], None]
# Seconds in which the caller asks again and again whether the others are done, before it sleeps: to wake
# up took 80 us, and GELU of 400,000 float32 266 us on two threads where one takes 209.
PATIENCE = 300e-6


class Places:
    """Keeps some threads off the processor that their caller runs on.

    A thread that wakes up is put where it ran before, or beside the one that woke it, also where that is
    the caller's own processor and another one is idle: on a virtual machine with two, 40 products that
    take 3.9 ms on two threads took 7.7 in two of five runs, both threads on one processor for all of it.
    """

    def __init__(self) -> None:
        self.threads: list[int] = []  # by the system's number
        self._avoided = ctypes.c_int64(-1)
        self.avoided_at = ctypes.addressof(self._avoided)  # for machine code that looks by itself

    @property
    def avoided(self) -> int:
        """The processor that they keep off, or -1."""
        return self._avoided.value

    def join(self) -> None:
        """The calling thread is one of them."""
        self.threads.append(threading.get_native_id())
        self._avoided.value = -1

    def avoid_caller(self) -> None:
        """Let them run anywhere but here; once for each processor that the caller moves to."""
        here = _processor()
        if here == self.avoided or here < 0:
            return
        elsewhere = os.sched_getaffinity(0) - {here}
        if not elsewhere:
            return
        for thread in self.threads:
            with suppress(OSError):  # it ended
                os.sched_setaffinity(thread, elsewhere)
        self._avoided.value = here


def _find_processor() -> tuple[Callable[[], int], int]:
    """What tells the processor that the calling thread runs on, and its address for machine code.

    It tells -1 where the system does not say, and its address is 0.
    """
    try:
        found = ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return lambda: -1, 0
    if not hasattr(os, "sched_setaffinity"):
        return lambda: -1, 0
    return found, ctypes.cast(found, ctypes.c_void_p).value or 0


_processor, PROCESSOR = _find_processor()


class _Threads:
    """The process's worker threads, started when first needed."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """A forked child has none of its parent's threads."""
        self._starting = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._places = Places()

    def submit(self, work: Callable[..., Any], *args: object) -> Future[Any]:
        with self._starting:
            if self._executor is None:
                count = os.cpu_count() or 1
                self._executor = ThreadPoolExecutor(
                    count, thread_name_prefix="fusegraph", initializer=self._places.join
                )
            self._places.avoid_caller()
            return self._executor.submit(work, *args)


_THREADS = _Threads()


def run_tasks(make_task: Callable[[], Task], count: int, threads: int) -> None:
    """Run ``task(0) ... task(count - 1)``, on up to ``threads`` threads, the caller's included.

    ``make_task`` is called once on each thread: what it closes over is that thread's own.
    """
    threads = min(threads, count)
    if threads <= 1:
        task = make_task()
        for index in range(count):
            task(index)
        return
    indices = itertools.count()
    stop = threading.Event()

    def work(made: list[Callable[[], Task]]) -> None:
        # Taken out of the list, so that a finished helper holds none of the caller's arrays.
        try:
            task = made.pop()()
            while not stop.is_set() and (index := next(indices)) < count:
                task(index)
        except BaseException:
            stop.set()
            raise

    given = [[make_task] for _ in range(threads - 1)]
    # A copy of the caller's context: NumPy's error state is part of it.
    helpers: list[Future[None]] = [
        _THREADS.submit(contextvars.copy_context().run, work, made) for made in given
    ]
    try:
        work([make_task])
    finally:
        _release(helpers, stop)
        for made in given:  # a helper that came too late stays queued until a thread looks at it
            made.clear()


def _release(helpers: list[Future[None]], stop: threading.Event) -> None:
    """Wait for every helper, also when interrupted again meanwhile; then raise what one raised."""
    interrupted: BaseException | None = None
    for helper in helpers:
        if helper.cancel():
            continue
        patience = time.perf_counter() + PATIENCE
        while not helper.done():
            try:
                if time.perf_counter() < patience:
                    time.sleep(0)  # lets go of the interpreter's lock and of the processor
                else:
                    helper.exception()
            except KeyboardInterrupt as error:
                interrupted = error
                stop.set()
    if interrupted is not None:
        raise interrupted
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
