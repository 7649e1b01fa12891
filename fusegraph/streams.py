"""Bandwidth and peak speed of this machine, as a program on NumPy's loops reaches them.

In: cache sizes and a number of threads. Out: bytes per second of three streams at each level of memory,
and flops per second in each dtype. The streams are those of STREAM (J. McCalpin, 1995):

* ``read``: ``dot(a, b)``, two arrays read (``vecdot`` would keep the interpreter's lock);
* ``copy``: ``b = -a``, one read and one written (NumPy's own copy takes other paths by size);
* ``triad``: ``c = a + b``, two read and one written: the bytes of ``a + s * b``, for which NumPy has no
  call of its own.

The arrays of a level take half of it together (of L3 at most 24 MiB), those in memory eight times L3
(at most 192 MiB, whatever a machine says of its L3). One call passes over them again and again (a
leading axis of step zero; ``dot`` is called again and again), so that calls cost nothing. L1 is too
small for that: there the time of an empty call is subtracted, the median of several differences counts,
the greater of two medians some time apart, and L1 is as fast as L2 at least, since every line of L2
passes through it. Bytes are those that the program asks for: a processor that reads a line before it
writes one moves more. L3 and memory, which a machine shares with whatever else it runs, are the median
of some runs; everything else is the best of a few.

Peak speed is that of a matrix product of 256 x 256 (128 x 128 for complex numbers), counting ``2 n**3``
operations, on one thread and on every thread at once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fusegraph.blas_threads import BLAS_THREADS
from fusegraph.graph import Array
from fusegraph.machine import NEVER_CACHED, SHARED
from fusegraph.workers import run_tasks

RUNS = 4
# Of two, the best gave memory 23 GB/s in one of three profiles, and 34 in the others.
SHARED_RUNS = 5
STREAMS = {"read": 2, "copy": 2, "triad": 3}  # arrays that pass by
PASSED = 128 << 20  # bytes that one timing lets pass at least: waking a thread takes 80 us
# A call on arrays in L1, and an empty one: what is counted is the median of some differences, each
# between the least of some turns of so many calls.
DIFFERENCES, TURNS, CALLS = 7, 5, 60
# Bytes per second: two loads and a store of 64 bytes at 6 GHz are 1.2e12.
NOT_REACHED = 1.5e12
PRODUCT_DTYPES = "fdFD"
PRODUCTS = 12  # that one timing takes on each thread


def least_seconds(run: Callable[[], Any]) -> float:
    """Least seconds of a few runs, after one to warm up."""
    return max(min(_seconds_of_runs(run, RUNS)), 1e-9)


def median_seconds(run: Callable[[], Any], runs: int) -> float:
    """Median seconds of some runs, after one to warm up."""
    return max(statistics.median(_seconds_of_runs(run, runs)), 1e-9)


def _seconds_of_runs(run: Callable[[], Any], runs: int) -> list[float]:
    run()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def bandwidths(l1: int, l2: int, l3: int, cores: int) -> dict[str, float]:
    """Bytes per second by ``"stream level one"`` and ``"stream level all"``.

    A thread's own caches are measured on one thread only: every core has its own.
    """
    with BLAS_THREADS.at_most(1):
        return _bandwidths(l1, l2, l3, cores)


class SharedCopies:
    """Copies in L3 and in memory, to be timed again and again: others use both, more or less.

    Parameters
    ----------
    l3 : int
        Bytes of L3.
    cores : int
    """

    def __init__(self, l3: int, cores: int) -> None:
        self.levels = _shared_levels(l3)
        self.cores = cores
        self.room = _room(self.levels["memory"])

    def bandwidths(self) -> dict[str, float]:
        """Bytes per second now, of one run each, by the names of :func:`bandwidths`."""
        with BLAS_THREADS.at_most(1):
            return {
                f"copy {level} {name}": _bandwidth("copy", nbytes, threads, self.room, 1)
                for level, nbytes in self.levels.items()
                for name, threads in (("one", 1), ("all", self.cores))
            }


def _shared_levels(l3: int) -> dict[str, int]:
    """Bytes of the arrays of each level that cores share."""
    memory = min(8 * l3, NEVER_CACHED)
    return {"L3": min(l3 // 2, memory // 8), "memory": memory}


def _room(memory: int) -> Array:
    """Memory of which each stream's arrays take a part; written, so that it is mapped."""
    return np.ones(max(memory // 4, 4096), np.float32)


def _bandwidths(l1: int, l2: int, l3: int, cores: int) -> dict[str, float]:
    levels = {"L1": l1 // 2, "L2": l2 // 2, **_shared_levels(l3)}
    found = {}
    room = _room(levels["memory"])
    for stream in STREAMS:
        for level, nbytes in levels.items():
            shared = cores > 1 and level in SHARED
            for name, threads in (("one", 1), ("all", cores)) if shared else (("one", 1),):
                found[f"{stream} {level} {name}"] = _bandwidth(stream, nbytes, threads, room)
        if cores == 1:
            found |= {f"{stream} {at} all": found[f"{stream} {at} one"] for at in SHARED}
    for (
        stream
    ) in STREAMS:  # L1 again some time later: in milliseconds, others may slow down all of it
        near = f"{stream} L1 one"
        again = _bandwidth(stream, levels["L1"], 1, room)
        found[near] = max(found[near], again, found[f"{stream} L2 one"])
    return found


def _bandwidth(
    stream: str, nbytes: int, threads: int, room: Array, runs: int = SHARED_RUNS
) -> float:
    """Bytes per second of all threads, each on arrays of its own; together they take ``nbytes``."""
    count = STREAMS[stream]
    elements = max(16, nbytes // (4 * count * threads))
    passes = max(1, PASSED // (nbytes or 1))
    parts = room[: count * threads * elements].reshape(threads, count, elements)
    arrays = [list(part) for part in parts]
    if nbytes // threads < 64 << 10:
        return _near_bandwidth(stream, arrays[0])

    def make_task() -> Callable[[int], None]:
        return lambda at: _pass(stream, arrays[at], passes)

    seconds = median_seconds(lambda: run_tasks(make_task, threads, threads), runs)
    return 4 * count * elements * threads * passes / seconds


def _pass(stream: str, arrays: list[Array], passes: int) -> None:
    """Let a stream pass ``passes`` times."""
    if stream == "read":
        for _ in range(passes):
            np.dot(*arrays)
        return
    a, b, *c = (as_strided(x, (passes, x.size), (0, x.itemsize)) for x in arrays)
    _call(stream, a, b, *c)


def _near_bandwidth(stream: str, arrays: list[Array]) -> float:
    """Bytes per second of calls on arrays this small, without what an empty call takes.

    What others take of the machine makes calls longer, the empty ones too: subtracted once, they gave
    some profiles an L1 of 16 TB/s. So both take turns, the least of some turns make a difference, and
    the median of some differences counts. One that no processor reaches gives way to whole calls.
    """
    few, nbytes = [x[:16] for x in arrays], sum(x.nbytes for x in arrays)
    differences, least = [], math.inf
    for _ in range(DIFFERENCES):
        turns = [(_call_seconds(stream, arrays), _call_seconds(stream, few)) for _ in range(TURNS)]
        whole, empty = map(min, zip(*turns, strict=True))
        differences.append(whole - empty)
        least = min(least, whole)
    passing = statistics.median(differences)
    return nbytes / (passing if passing > nbytes / NOT_REACHED else max(least, 1e-9))


def _call_seconds(stream: str, arrays: list[Array]) -> float:
    """Seconds of a call: the mean of a few, which take less than a slice of a thread's time."""
    start = time.perf_counter()
    for _ in range(CALLS):
        _call(stream, *arrays)
    return (time.perf_counter() - start) / CALLS


def _call(stream: str, a: Array, b: Array, *c: Array) -> None:
    if stream == "read":
        np.dot(a, b)
    elif stream == "copy":
        np.negative(a, out=b)
    else:
        np.add(a, b, out=c[0])


def sharing_costs(cores: int) -> tuple[float, float]:
    """Seconds that it costs to wake a thread, and until the interpreter's lock is back after a call.

    Both come from calls that run side by side: what they take longer than half of what one thread takes.
    Between two timings there is a rest, as between two kernels of a program that does other things too.
    """
    x = np.full(32768, 0.5, np.float32)
    calls = 16 * cores

    def make_task() -> Callable[[int], None]:
        out = np.empty_like(x)
        return lambda at: np.add(x, x, out=out)  # type: ignore[return-value]

    def seconds(count: int, threads: int) -> float:
        def run() -> None:
            run_tasks(make_task, count, threads)

        taken = []
        for _ in range(2 * RUNS):
            time.sleep(2e-3)
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        return sorted(taken)[len(taken) // 2]

    few, many = seconds(cores, cores), seconds(calls, cores)
    waking = max(few - seconds(cores, 1) / cores, 1e-6)
    handover = max((many - few - seconds(calls, 1) / cores) * cores / calls, 1e-7)
    return waking, handover


def product_rates(cores: int) -> Iterator[tuple[str, float, float]]:
    """Each dtype that BLAS multiplies, its GFLOP/s on one thread, and on all."""
    with BLAS_THREADS.at_most(1):
        for code in PRODUCT_DTYPES:
            dtype = np.dtype(code)
            yield dtype.name, _gigaflops(dtype, 1), _gigaflops(dtype, cores)


def _gigaflops(dtype: np.dtype[Any], threads: int) -> float:
    """GFLOP/s of products side by side, one a thread."""
    size = 256 if dtype.kind == "f" else 128
    a = np.linspace(0, 1, size * size).reshape(size, size).astype(dtype)

    def make_task() -> Callable[[int], None]:
        out = np.empty_like(a)

        def task(_: int) -> None:
            np.matmul(a, a, out=out)

        return task

    seconds = least_seconds(lambda: run_tasks(make_task, PRODUCTS * threads, threads))
    return PRODUCTS * threads * 2 * size**3 / seconds * 1e-9
