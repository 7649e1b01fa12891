"""Jobs: tasks of compiled code that threads share without the interpreter's lock.

In: a job, an array of words that names a compiled function and how many tasks it is to run. Out: all
of them done. Threads count up a word of the job to take their next task, so one that comes late or is
slowed down takes fewer.

Each helper is a thread that looks for a job in a mailbox of its own, in compiled code. It goes on
looking for a moment after a job is done, and then sleeps: where a processor of a virtual machine went
idle, to wake up takes 80 us, and as long again for each time that the interpreter's lock changes hands.
GELU of 400,000 float32 took 266 us on two threads that took turns with the lock, 209 on one, 133 so.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from fusegraph.engines.llvm import compiler
from fusegraph.workers import Places

# Words of every job: the next task, tasks that are done, threads that began, helpers that took the job
# and those that left it, how many tasks there are, and the address of ``void task(ptr job, i64 index,
# i64 slot)``; a slot is a number of the thread, below the number of threads.
JOB_NEXT, JOB_DONE, JOB_SLOTS, JOB_TAKEN, JOB_LEFT, JOB_TASKS, JOB_TASK, JOB_OWN = range(8)
LETTER, ASLEEP = range(2)  # words of a mailbox: a job's address or 0, and whether its helper sleeps
LOOKS = 100_000  # before a helper or a caller sleeps: about 0.1 ms
REST = 50e-6  # seconds of the caller's sleep

CODE = f"""
define void @fg_work(ptr %job) {{
entry:
  %task.at = getelementptr i64, ptr %job, i64 {JOB_TASK}
  %task = load ptr, ptr %task.at
  %tasks.at = getelementptr i64, ptr %job, i64 {JOB_TASKS}
  %tasks = load i64, ptr %tasks.at
  %done.at = getelementptr i64, ptr %job, i64 {JOB_DONE}
  %slots.at = getelementptr i64, ptr %job, i64 {JOB_SLOTS}
  %slot = atomicrmw add ptr %slots.at, i64 1 monotonic
  br label %take
take:
  %index = atomicrmw add ptr %job, i64 1 monotonic
  %some = icmp slt i64 %index, %tasks
  br i1 %some, label %run, label %nothing
run:
  call void %task(ptr %job, i64 %index, i64 %slot)
  %before = atomicrmw add ptr %done.at, i64 1 release
  br label %take
nothing:
  ret void
}}

define i32 @fg_post(ptr %box, ptr %job) {{
  %address = ptrtoint ptr %job to i64
  %pair = cmpxchg ptr %box, i64 0, i64 %address acq_rel monotonic
  %posted = extractvalue {{ i64, i1 }} %pair, 1
  %answer = zext i1 %posted to i32
  ret i32 %answer
}}

define void @fg_retract(ptr %box, ptr %job) {{
  %address = ptrtoint ptr %job to i64
  %pair = cmpxchg ptr %box, i64 %address, i64 0 acq_rel monotonic
  %back = extractvalue {{ i64, i1 }} %pair, 1
  %taken.at = getelementptr i64, ptr %job, i64 {JOB_TAKEN}
  %taken = load i64, ptr %taken.at
  %one.less = sub i64 %taken, 1
  %now = select i1 %back, i64 %one.less, i64 %taken
  store i64 %now, ptr %taken.at
  ret void
}}

define i32 @fg_wait(ptr %job, i64 %looks) {{
entry:
  %tasks.at = getelementptr i64, ptr %job, i64 {JOB_TASKS}
  %tasks = load i64, ptr %tasks.at
  %taken.at = getelementptr i64, ptr %job, i64 {JOB_TAKEN}
  %taken = load i64, ptr %taken.at
  %done.at = getelementptr i64, ptr %job, i64 {JOB_DONE}
  %left.at = getelementptr i64, ptr %job, i64 {JOB_LEFT}
  br label %look
look:
  %n = phi i64 [0, %entry], [%n1, %again]
  %done = load atomic i64, ptr %done.at acquire, align 8
  %left = load atomic i64, ptr %left.at acquire, align 8
  %all.done = icmp sge i64 %done, %tasks
  %all.left = icmp sge i64 %left, %taken
  %all = and i1 %all.done, %all.left
  br i1 %all, label %ready, label %again
again:
  %n1 = add i64 %n, 1
  %more = icmp slt i64 %n1, %looks
  br i1 %more, label %look, label %tired
ready:
  ret i32 1
tired:
  ret i32 0
}}

define void @fg_serve(ptr %box, i64 %looks) {{
entry:
  br label %look
look:
  %n = phi i64 [0, %entry], [%n1, %again], [0, %leave]
  %seen = load atomic i64, ptr %box monotonic, align 8
  %some = icmp ne i64 %seen, 0
  br i1 %some, label %open, label %again
open:
  %letter = atomicrmw xchg ptr %box, i64 0 acq_rel
  %mine = icmp ne i64 %letter, 0
  br i1 %mine, label %run, label %again
run:
  %job = inttoptr i64 %letter to ptr
  call void @fg_work(ptr %job)
  br label %leave
leave:
  %left.at = getelementptr i64, ptr %job, i64 {JOB_LEFT}
  %before = atomicrmw add ptr %left.at, i64 1 release
  br label %look
again:
  %n1 = add i64 %n, 1
  %more = icmp slt i64 %n1, %looks
  br i1 %more, label %look, label %tired
tired:
  ret void
}}
"""


class Calls(NamedTuple):
    """The functions of ``CODE``; each call lets go of the interpreter's lock."""

    work: Callable[[int], None]
    post: Callable[[int, int], int]
    retract: Callable[[int, int], None]
    wait: Callable[[int, int], int]
    serve: Callable[[int, int], None]


@cache
def calls() -> Calls:
    """The functions, compiled once."""
    pointer, word, answer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    kinds: dict[str, tuple[Any, ...]] = {
        "work": (None, pointer),
        "post": (answer, pointer, pointer),
        "retract": (None, pointer, pointer),
        "wait": (answer, pointer, word),
        "serve": (None, pointer, word),
    }
    return Calls(
        **{
            name: compiler.function(ctypes.CFUNCTYPE(*kind), CODE, f"fg_{name}")
            for name, kind in kinds.items()
        }
    )


class Helper:
    """A thread that works on jobs put into its mailbox."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.box = (ctypes.c_int64 * 8)()  # a cache line of its own
        self.address = ctypes.addressof(self.box)
        self.bell = threading.Semaphore(0)
        threading.Thread(target=self.serve, name="fusegraph-llvm", daemon=True).start()

    def serve(self) -> None:
        """Work while there is work, and sleep while there is none."""
        self.places.join()
        serve = calls().serve
        while True:
            serve(self.address, LOOKS)
            self.box[ASLEEP] = 1
            if not self.box[
                LETTER
            ]:  # posted after the last look, and before the caller saw it asleep
                self.bell.acquire()
            self.box[ASLEEP] = 0

    def wake(self) -> None:
        if self.box[ASLEEP]:
            self.bell.release()


class _Helpers:
    """The process's helpers, started when first needed."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """A forked child has none of its parent's threads."""
        self.lock = threading.Lock()
        self.started: list[Helper] = []
        self.places = Places()

    def first(self, count: int) -> list[Helper]:
        """As many helpers; every caller gets the same ones, and finds some of them busy."""
        if len(self.started) < count:
            with self.lock:
                while len(self.started) < count:
                    self.started.append(Helper(self.places))
        if count:
            self.places.avoid_caller()
        return self.started[:count]


_HELPERS = _Helpers()


def run_job(job: Any, threads: int) -> None:
    """Run every task of a job on up to ``threads`` threads, the caller's included.

    Parameters
    ----------
    job : ctypes array of int64
        ``JOB_TASKS`` and ``JOB_TASK`` are filled in, the words before them are 0.
    threads : int
    """
    known, address = calls(), ctypes.addressof(job)
    posted = []
    try:
        for helper in _HELPERS.first(threads - 1):
            job[JOB_TAKEN] += 1
            if known.post(helper.address, address):
                posted.append(helper)
                helper.wake()
            else:
                job[JOB_TAKEN] -= 1
        known.work(address)
    finally:
        _finish(known, address, posted)


def _finish(known: Calls, address: int, posted: list[Helper]) -> None:
    """Wait until no helper touches the job's memory; an interrupt is raised only then."""
    interrupted: BaseException | None = None
    while True:
        try:
            while posted:
                known.retract(posted.pop().address, address)
            if known.wait(address, LOOKS):
                break
            time.sleep(REST)
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
