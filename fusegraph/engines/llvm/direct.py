"""Direct calls: a job as a function of the interpreter's own kind, with no Python in between.

In: jobs of fixed shapes, the arrays that they take and what makes those that they give. Out: a callable
of arrays, which gives None where they are not dense arrays of those shapes and dtypes, or where an array
that it captured has changed. One compiled
function serves all of them: it checks its arguments where they lie in memory, asks for results, puts
addresses into each job and runs it. A triad of 1,000 float32 took 4.4 us by way of Python's lists and
keys and takes 0.8 so, of 100,000 on two threads 15.9 and 7.4; 1.0 and 8.1 in numba.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fusegraph.buffers import LINE, POOL
from fusegraph.engines.base import Array
from fusegraph.engines.llvm import compiler, jobs
from fusegraph.engines.llvm import direct_code as word
from fusegraph.engines.llvm.headers import ALIGNED, DENSE, arrays_lie_as_expected
from fusegraph.engines.llvm.jobs import JOB_THREADS, Work
from fusegraph.workers import PROCESSOR

# Bytes of scratch that a call takes from the stack, which may be small: more comes from the pool.
ON_STACK = 4 << 10
METH_FASTCALL = 0x80
BYTE = np.dtype(np.uint8)
NAMES = {  # of the functions; all are part of CPython's interface
    word.INCREF: "Py_IncRef", word.DECREF: "Py_DecRef", word.CALL: "PyObject_CallNoArgs",
    word.SAVE: "PyEval_SaveThread", word.RESTORE: "PyEval_RestoreThread", word.TUPLE: "PyTuple_New",
    word.SET_ITEM: "PyTuple_SetItem", word.SLEEP: "PyThread_acquire_lock_timed",
}  # fmt: skip


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_BOUND = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p)


class _Interpreter(NamedTuple):
    """What direct calls need of CPython."""

    functions: dict[int, int]  # addresses by word
    lock: int  # one that is held, to sleep at
    bind: Callable[..., Any]
    method: _Method


@cache
def _interpreter() -> _Interpreter | None:
    """The interpreter's functions, or None where it has not all of them, or other objects."""
    if sys.implementation.name != "cpython" or not arrays_lie_as_expected():
        return None
    api = ctypes.pythonapi
    try:
        found = {
            place: ctypes.cast(getattr(api, name), ctypes.c_void_p) for place, name in NAMES.items()
        }
        allocate, acquire = api.PyThread_allocate_lock, api.PyThread_acquire_lock
        bind = ctypes.PYFUNCTYPE(ctypes.py_object, *_BOUND)(("PyCMethod_New", api))
    except AttributeError:
        return None
    allocate.restype, acquire.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)
    lock = allocate()
    acquire(lock, 1)
    address = compiler.address_of(word.CODE, "fg_call")
    method = _Method(b"kernel", address, METH_FASTCALL, b"A kernel on arrays of its own kind.")
    return _Interpreter({place: f.value or 0 for place, f in found.items()}, lock, bind, method)


class Direct(NamedTuple):
    """A callable of arrays, and what it was made of."""

    call: Callable[..., Any]
    words: np.ndarray[Any, Any]

    @property
    def valid(self) -> bool:
        """Does it still run? A forked child has none of its parent's threads."""
        return bool(self.words[word.EPOCH] == jobs.HELPERS.epoch.value)

    @property
    def calls(self) -> int:
        """Those that found their arguments in order."""
        return int(self.words[word.CALLS])


def direct_call(
    work: Sequence[tuple[Work, Sequence[int], int]],
    arguments: Sequence[Array],
    captured: Sequence[Array],
    outlets: Sequence[Callable[[], Array]],
    results: int,
    several: bool,
) -> Direct | None:
    """A callable that runs some jobs, or None where this interpreter has no such calls.

    Parameters
    ----------
    work : sequence of (Work, sequence of int, int)
        Each job, the place of each of its operands, and its threads. Arguments come first, then what
        is captured, then what outlets made.
    arguments : sequence of numpy.ndarray
        Dense arrays of the shapes and dtypes that it will take.
    captured : sequence of numpy.ndarray
        Arrays that every call reads too, where they lie then. They need not be dense.
    outlets : sequence of callable
        What gives memory, each a dense array: first for the results, then for what is between jobs.
    results : int
    several : bool
        Are the results a tuple?
    """
    interpreter = _interpreter()
    if interpreter is None:
        return None
    scratch, place = max(job.scratch_bytes for job, _, _ in work), -1
    if scratch > ON_STACK:
        place, outlets = len(outlets), [*outlets, POOL.outlet((scratch + LINE,), BYTE)]
    helpers = jobs.HELPERS
    move, epoch = helpers.places.avoid_caller, helpers.epoch
    crews = [helpers.crew(threads - 1) for _, _, threads in work]
    pairs = zip(work, crews, strict=True)
    records = [_record(job, places, crew) for (job, places, _), crew in pairs]
    tables = [
        np.array(table, np.int64)
        for table in (
            [fact for array in (*arguments, *captured) for fact in _check(array)],
            [id(array) for array in captured],
            [id(outlet) for outlet in outlets],
            [record.words for record in records],
        )
    ]
    checks, taken, made, described = (table.ctypes.data for table in tables)
    words = np.zeros(word.HEAD, np.int64)
    facts = {
        word.ARGUMENTS: len(arguments), word.CHECKS_AT: checks,
        word.CAPTURED: len(captured), word.CAPTURED_AT: taken,
        word.ARRAY_TYPE: id(np.ndarray), word.NOTHING: id(None),
        word.RESULTS: results, word.SEVERAL: several, word.MADE: len(outlets), word.OUTLETS_AT: made,
        word.JOBS: len(work), word.RECORDS_AT: described,
        word.MOST_WORDS: max(len(record.template) for record in records),
        word.MOST_THREADS: max(crew.threads for crew in crews),
        word.SCRATCH_PLACE: place, word.SCRATCH_BYTES: 0 if place >= 0 else scratch,
        word.AVOIDED_AT: helpers.places.avoided_at, word.MOVE: id(move),
        word.EPOCH: epoch.value, word.EPOCH_AT: ctypes.addressof(epoch),
        word.PROCESSOR_AT: PROCESSOR, word.LOCK_AT: interpreter.lock, **interpreter.functions,
    }  # fmt: skip
    for name, fact in facts.items():
        words[name] = fact
    dtypes = [array.dtype for array in (*arguments, *captured)]
    memory = list(captured), [job.held for job, _, _ in work]
    # The words come first: the compiled function looks there. The interpreter may be nobody
    # else's, where two threads made one each.
    held = [words, interpreter, tables, records, move, list(outlets), dtypes, memory]
    method = ctypes.addressof(interpreter.method)
    return Direct(interpreter.bind(method, held, None, None), words)


def _check(array: Array) -> tuple[int, ...]:
    """The words by which a call knows an array of this kind: one that is not dense, by its strides."""
    dense = array.flags.c_contiguous
    flags, strides = (DENSE, ()) if dense else (ALIGNED, array.strides)
    return id(array.dtype), array.ndim, flags, len(strides), *array.shape, *strides


class _Record(NamedTuple):
    """The words that describe a job, and what they name."""

    words: tuple[int, ...]
    template: Any  # the words of the job, with room for the addresses of its operands
    places: np.ndarray[Any, Any]
    wake: Callable[[], None]


def _record(work: Work, places: Sequence[int], crew: jobs.Crew) -> _Record:
    template = work.job(len(places))
    template[JOB_THREADS] = crew.threads
    at, wake = np.array(places, np.int64), crew.wake
    words = (
        ctypes.addressof(template), len(template), work.scratch_word, len(at), at.ctypes.data,
        crew.threads, crew.address, id(wake),
    )  # fmt: skip
    return _Record(words, template, at, wake)
