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
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from fusegraph.forks import in_child

Task = Callable[[int], None]
# Seconds in which the caller asks again and again whether the others are done, before it sleeps: to wake
# up took 80 us, and GELU of 400,000 float32 266 us on two threads where one takes 209.
PATIENCE = 300e-6
REST = 0.01  # seconds after which it looks whatever the bell does


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
        in_child(self.forget)

    def forget(self) -> None:
        """A forked child has none of its parent's threads."""
        self._starting = threading.Lock()
        self._started = 0
        self._places = Places()
        self._works: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def give(self, works: list[Callable[[], None]]) -> None:
        """Let threads call ``works``, none of which raises; there are as many as processors at most."""
        wanted = min(len(works), os.cpu_count() or 1)
        if self._started < wanted:
            with self._starting:
                while self._started < wanted:
                    name = f"fusegraph_{self._started}"
                    self._started += 1
                    threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._places.avoid_caller()
        for work in works:
            self._works.put(work)

    def _serve(self) -> None:
        self._places.join()
        works = self._works
        while True:
            works.get()()


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
    shared = _Shared(make_task, count, threads - 1)
    run = contextvars.Context.run
    try:
        # A copy of the caller's context for each: NumPy's error state is part of it.
        _THREADS.give(
            [partial(run, contextvars.copy_context(), shared.help, n) for n in range(threads - 1)]
        )
        shared.work(make_task)
    finally:
        shared.release()


class _Shared:
    """Tasks that threads share.

    An interrupt comes to the caller between any two steps of Python. So it waits for nobody by a
    ``Condition``, a ``Future`` or an ``Event``, which are written in Python and may be left locked: a
    process hung after one interrupt in some hundreds. Threads tell each other by lists, a dictionary,
    and a lock that is but a bell; what the caller does may be broken off anywhere, and done again.
    """

    def __init__(self, make_task: Callable[[], Task], count: int, helpers: int) -> None:
        self.count, self.helpers = count, helpers
        self.indices = itertools.count()
        self.given = [make_task]  # emptied at the end: a helper that comes too late holds nothing
        self.claims: dict[int, bool] = {}  # of each helper: did it begin, or the caller end before?
        self.done: list[None] = []  # an entry for each helper that began and ended
        self.stopped: list[None] = []  # an entry or more: take no further task
        self.errors: list[BaseException] = []
        self.bell = threading.Lock()
        self.bell.acquire()

    def work(self, make_task: Callable[[], Task]) -> None:
        """Take tasks until there are none, or somebody stopped."""
        try:
            task = make_task()
            while not self.stopped and (index := next(self.indices)) < self.count:
                task(index)
        except BaseException:
            self.stopped.append(None)
            raise

    def help(self, number: int) -> None:
        """What a helper does."""
        if not self.claims.setdefault(number, True):
            return
        try:
            self.work(self.given[0])
        except BaseException as error:  # raised in the caller
            self.errors.append(error)
        finally:
            self.done.append(None)
            with suppress(RuntimeError):  # it rings
                self.bell.release()

    def release(self) -> None:
        """Wait for every helper, also when interrupted meanwhile; then raise what one raised."""
        interrupted: BaseException | None = None
        patience = time.perf_counter() + PATIENCE
        while True:
            try:
                if len(self.done) >= self.begun():
                    break
                if time.perf_counter() < patience:
                    time.sleep(0)  # lets go of the interpreter's lock and of the processor
                else:
                    self.bell.acquire(timeout=REST)
            except BaseException as error:  # of a signal
                interrupted = error
                self.stopped.append(None)
        self.given.clear()
        if interrupted is not None:
            raise interrupted
        if self.errors:
            raise self.errors.pop()

    def begun(self) -> int:
        """How many helpers began; the others will not, now that the caller has finished."""
        return sum(self.claims.setdefault(number, False) for number in range(self.helpers))
