"""Direct calls: a job as a function of the interpreter's own kind, with no Python in between.

In: jobs of fixed shapes, the arrays that they take and what makes those that they give. Out: a callable
of arrays, which gives None where they are not dense arrays of those shapes and dtypes. One compiled
function serves all of them: it checks its arguments where they lie in memory, asks for results, puts
addresses into each job and runs it. A triad of 1,000 float32 took 4.4 us by way of Python's lists and
keys and takes 0.8 so, of 100,000 on two threads 15.9 and 7.4; 1.0 and 8.1 in numba.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fusegraph.buffers import LINE, POOL
from fusegraph.engines.base import Array
from fusegraph.engines.llvm import compiler, jobs
from fusegraph.engines.llvm.headers import (
    ACCESSORS,
    DATA,
    DENSE,
    DESCRIPTION,
    DIMENSIONS,
    FLAGS,
    ITEMS,
    RANK,
    TYPE,
    arrays_lie_as_expected,
)
from fusegraph.engines.llvm.jobs import JOB_RANGES, JOB_THREADS, RANGE, Work
from fusegraph.workers import PROCESSOR

# Bytes of scratch that a call takes from the stack, which may be small: more comes from the pool.
ON_STACK = 4 << 10
METH_FASTCALL = 0x80
BYTE = np.dtype(np.uint8)
# Words of a call. A name that ends in AT is an address; the functions of the interpreter come last.
(
    ARGUMENTS, CHECKS_AT, ARRAY_TYPE, NOTHING, RESULTS, MADE, OUTLETS_AT, SEVERAL, JOBS, RECORDS_AT,
    MOST_WORDS, MOST_THREADS, SCRATCH_BYTES, SCRATCH_PLACE, AVOIDED_AT, MOVE, EPOCH, EPOCH_AT, CALLS,
    PROCESSOR_AT, LOCK_AT, INCREF, DECREF, CALL, SAVE, RESTORE, TUPLE, SET_ITEM, SLEEP, HEAD,
) = range(30)  # fmt: skip
# Words of the record of a job.
(
    TEMPLATE_AT, JOB_WORDS, SCRATCH_WORD, OPERANDS, PLACES_AT, THREADS, BOXES_AT, WAKE, RECORD
) = range(9)  # fmt: skip
NAMES = {  # of the functions; all are part of CPython's interface
    INCREF: "Py_IncRef", DECREF: "Py_DecRef", CALL: "PyObject_CallNoArgs",
    SAVE: "PyEval_SaveThread", RESTORE: "PyEval_RestoreThread", TUPLE: "PyTuple_New",
    SET_ITEM: "PyTuple_SetItem", SLEEP: "PyThread_acquire_lock_timed",
}  # fmt: skip
REST = 50  # microseconds that a caller sleeps who has looked for long enough

CODE = f"""
{ACCESSORS}
{jobs.CODE}
define internal i1 @matches(ptr %argument, ptr %check, ptr %array.type) {{
entry:
  %type = call ptr @field(ptr %argument, i64 {TYPE})
  %is.array = icmp eq ptr %type, %array.type
  br i1 %is.array, label %array, label %no
array:
  %dtype = call ptr @field(ptr %argument, i64 {DESCRIPTION})
  %dtype.wanted = call ptr @item(ptr %check, i64 0)
  %same.dtype = icmp eq ptr %dtype, %dtype.wanted
  %rank.at = getelementptr i8, ptr %argument, i64 {RANK}
  %rank32 = load i32, ptr %rank.at
  %rank = sext i32 %rank32 to i64
  %rank.wanted = call i64 @word(ptr %check, i64 1)
  %same.rank = icmp eq i64 %rank, %rank.wanted
  %flags.at = getelementptr i8, ptr %argument, i64 {FLAGS}
  %flags = load i32, ptr %flags.at
  %dense = and i32 %flags, {DENSE}
  %is.dense = icmp eq i32 %dense, {DENSE}
  %alike = and i1 %same.dtype, %same.rank
  %fits = and i1 %alike, %is.dense
  %dimensions = call ptr @field(ptr %argument, i64 {DIMENSIONS})
  br i1 %fits, label %axes, label %no
axes:
  %axis = phi i64 [0, %array], [%axis1, %same]
  %left = icmp slt i64 %axis, %rank
  br i1 %left, label %look, label %yes
look:
  %length = call i64 @word(ptr %dimensions, i64 %axis)
  %at = add i64 %axis, 2
  %length.wanted = call i64 @word(ptr %check, i64 %at)
  %axis1 = add i64 %axis, 1
  %is.same = icmp eq i64 %length, %length.wanted
  br i1 %is.same, label %same, label %no
same:
  br label %axes
yes:
  ret i1 true
no:
  ret i1 false
}}

define internal void @drop(ptr %w, ptr %objects, i64 %count) {{
entry:
  %decref = call ptr @item(ptr %w, i64 {DECREF})
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %one]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %one, label %done
one:
  %object = call ptr @item(ptr %objects, i64 %k)
  call void %decref(ptr %object)
  %k1 = add i64 %k, 1
  br label %next
done:
  ret void
}}

define internal i1 @asked(ptr %w, ptr %callable) {{
entry:
  %call = call ptr @item(ptr %w, i64 {CALL})
  %answer = call ptr %call(ptr %callable)
  %failed = icmp eq ptr %answer, null
  br i1 %failed, label %no, label %yes
yes:
  %decref = call ptr @item(ptr %w, i64 {DECREF})
  call void %decref(ptr %answer)
  ret i1 true
no:
  ret i1 false
}}

define internal i1 @make_room(ptr %w) {{
entry:
  %processor = call ptr @item(ptr %w, i64 {PROCESSOR_AT})
  %known = icmp ne ptr %processor, null
  br i1 %known, label %look, label %good
look:
  %here32 = call i32 %processor()
  %here = sext i32 %here32 to i64
  %avoided.at = call ptr @item(ptr %w, i64 {AVOIDED_AT})
  %avoided = load i64, ptr %avoided.at
  %stayed = icmp eq i64 %here, %avoided
  br i1 %stayed, label %good, label %move
move:
  %avoid = call ptr @item(ptr %w, i64 {MOVE})
  %moved = call i1 @asked(ptr %w, ptr %avoid)
  ret i1 %moved
good:
  ret i1 true
}}

define internal i1 @run(ptr %w, ptr %record, ptr %job) {{
entry:
  %threads = call i64 @word(ptr %record, i64 {THREADS})
  %helpers = sub i64 %threads, 1
  %boxes = call ptr @item(ptr %record, i64 {BOXES_AT})
  %save = call ptr @item(ptr %w, i64 {SAVE})
  %restore = call ptr @item(ptr %w, i64 {RESTORE})
  %sleep = call ptr @item(ptr %w, i64 {SLEEP})
  %lock = call ptr @item(ptr %w, i64 {LOCK_AT})
  %asleep = call i64 @fg_begin(ptr %job, ptr %boxes, i64 %helpers)
  %some = icmp sgt i64 %asleep, 0
  br i1 %some, label %wake, label %awake
wake:
  %ring = call ptr @item(ptr %record, i64 {WAKE})
  %woken = call i1 @asked(ptr %w, ptr %ring)
  br label %awake
awake:
  %good = phi i1 [true, %entry], [%woken, %wake]
  %state = call ptr %save()
  br label %complete
complete:
  %answer = call i32 @fg_complete(ptr %job, ptr %boxes, i64 %helpers, i64 {jobs.LOOKS})
  %done = icmp ne i32 %answer, 0
  br i1 %done, label %finished, label %rest
rest:
  %late = call i32 %sleep(ptr %lock, i64 {REST}, i32 0)
  br label %complete
finished:
  call void %restore(ptr %state)
  ret i1 %good
}}

define internal i1 @one(ptr %w, ptr %record, ptr %args, i64 %nargs, ptr %made, ptr %job, ptr %ranges,
    ptr %scratch) {{
entry:
  %job.words = call i64 @word(ptr %record, i64 {JOB_WORDS})
  %template = call ptr @item(ptr %record, i64 {TEMPLATE_AT})
  %job.bytes = mul i64 %job.words, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %job, ptr %template, i64 %job.bytes, i1 false)
  %ranges.at = getelementptr ptr, ptr %job, i64 {JOB_RANGES}
  store ptr %ranges, ptr %ranges.at
  %scratch.word = call i64 @word(ptr %record, i64 {SCRATCH_WORD})
  %scratch.at = getelementptr ptr, ptr %job, i64 %scratch.word
  store ptr %scratch, ptr %scratch.at
  %operands = call i64 @word(ptr %record, i64 {OPERANDS})
  %places = call ptr @item(ptr %record, i64 {PLACES_AT})
  %before = sub i64 %job.words, %operands
  br label %operand
operand:
  %k = phi i64 [0, %entry], [%k1, %put]
  %unplaced = icmp slt i64 %k, %operands
  br i1 %unplaced, label %put, label %prepare
put:
  %place = call i64 @word(ptr %places, i64 %k)
  %is.made = icmp sge i64 %place, %nargs
  %from.made = sub i64 %place, %nargs
  %index = select i1 %is.made, i64 %from.made, i64 %place
  %group = select i1 %is.made, ptr %made, ptr %args
  %array = call ptr @item(ptr %group, i64 %index)
  %data = call ptr @field(ptr %array, i64 {DATA})
  %word.at = add i64 %before, %k
  %pointer.at = getelementptr ptr, ptr %job, i64 %word.at
  store ptr %data, ptr %pointer.at
  %k1 = add i64 %k, 1
  br label %operand
prepare:
  %threads = call i64 @word(ptr %record, i64 {THREADS})
  %several.threads = icmp sgt i64 %threads, 1
  br i1 %several.threads, label %make.room, label %execute
make.room:
  %room = call i1 @make_room(ptr %w)
  br i1 %room, label %execute, label %failed
execute:
  %ran = call i1 @run(ptr %w, ptr %record, ptr %job)
  ret i1 %ran
failed:
  ret i1 false
}}

define ptr @fg_call(ptr %self, ptr %args, i64 %nargs) {{
entry:
  %self.items = call ptr @field(ptr %self, i64 {ITEMS})
  %self.words = call ptr @item(ptr %self.items, i64 0)
  %w = call ptr @field(ptr %self.words, i64 {DATA})
  %wanted = call i64 @word(ptr %w, i64 {ARGUMENTS})
  %enough = icmp eq i64 %nargs, %wanted
  %epoch.at = call ptr @item(ptr %w, i64 {EPOCH_AT})
  %epoch.now = load i64, ptr %epoch.at
  %epoch = call i64 @word(ptr %w, i64 {EPOCH})
  %same.process = icmp eq i64 %epoch.now, %epoch
  %array.type = call ptr @item(ptr %w, i64 {ARRAY_TYPE})
  %checks = call ptr @item(ptr %w, i64 {CHECKS_AT})
  %call = call ptr @item(ptr %w, i64 {CALL})
  %outlets = call ptr @item(ptr %w, i64 {OUTLETS_AT})
  %results = call i64 @word(ptr %w, i64 {RESULTS})
  %count = call i64 @word(ptr %w, i64 {MADE})
  %made = alloca ptr, i64 %count
  %go = and i1 %enough, %same.process
  br i1 %go, label %argument, label %miss
argument:
  %a = phi i64 [0, %entry], [%a1, %good]
  %check = phi ptr [%checks, %entry], [%check1, %good]
  %more = icmp slt i64 %a, %nargs
  br i1 %more, label %look, label %outlet
look:
  %argument.at = call ptr @item(ptr %args, i64 %a)
  %fits = call i1 @matches(ptr %argument.at, ptr %check, ptr %array.type)
  %rank = call i64 @word(ptr %check, i64 1)
  %length = add i64 %rank, 2
  %check1 = getelementptr i64, ptr %check, i64 %length
  %a1 = add i64 %a, 1
  br i1 %fits, label %good, label %miss
good:
  br label %argument
miss:
  %nothing = call ptr @item(ptr %w, i64 {NOTHING})
  %incref = call ptr @item(ptr %w, i64 {INCREF})
  call void %incref(ptr %nothing)
  ret ptr %nothing
outlet:
  %r = phi i64 [0, %argument], [%r1, %made.one]
  %unmade = icmp slt i64 %r, %count
  br i1 %unmade, label %make, label %room
make:
  %outlet.at = call ptr @item(ptr %outlets, i64 %r)
  %result = call ptr %call(ptr %outlet.at)
  %none = icmp eq ptr %result, null
  br i1 %none, label %failed, label %made.one
made.one:
  %result.at = getelementptr ptr, ptr %made, i64 %r
  store ptr %result, ptr %result.at
  %r1 = add i64 %r, 1
  br label %outlet
failed:
  %so.far = phi i64 [%r, %make], [%count, %work]
  call void @drop(ptr %w, ptr %made, i64 %so.far)
  ret ptr null
room:
  %most.words = call i64 @word(ptr %w, i64 {MOST_WORDS})
  %job = alloca i64, i64 %most.words, align 64
  %most.threads = call i64 @word(ptr %w, i64 {MOST_THREADS})
  %range.words = mul i64 %most.threads, {RANGE}
  %ranges = alloca i64, i64 %range.words, align 64
  %scratch.bytes = call i64 @word(ptr %w, i64 {SCRATCH_BYTES})
  %stack = alloca i8, i64 %scratch.bytes, align 64
  %scratch.place = call i64 @word(ptr %w, i64 {SCRATCH_PLACE})
  %small = icmp slt i64 %scratch.place, 0
  br i1 %small, label %begin, label %borrow
borrow:
  %lent = call ptr @item(ptr %made, i64 %scratch.place)
  %lent.data = call ptr @field(ptr %lent, i64 {DATA})
  %lent.word = ptrtoint ptr %lent.data to i64
  %lent.up = add i64 %lent.word, 63
  %lent.line = and i64 %lent.up, -64
  %lent.at = inttoptr i64 %lent.line to ptr
  br label %begin
begin:
  %scratch = phi ptr [%stack, %room], [%lent.at, %borrow]
  %records = call ptr @item(ptr %w, i64 {RECORDS_AT})
  %jobs = call i64 @word(ptr %w, i64 {JOBS})
  br label %next
next:
  %j = phi i64 [0, %begin], [%j1, %work]
  %waiting = icmp slt i64 %j, %jobs
  br i1 %waiting, label %work, label %done
work:
  %record.off = mul i64 %j, {RECORD}
  %record = getelementptr i64, ptr %records, i64 %record.off
  %ran = call i1 @one(ptr %w, ptr %record, ptr %args, i64 %nargs, ptr %made, ptr %job, ptr %ranges,
      ptr %scratch)
  %j1 = add i64 %j, 1
  br i1 %ran, label %next, label %failed
done:
  %spare = getelementptr ptr, ptr %made, i64 %results
  %spares = sub i64 %count, %results
  call void @drop(ptr %w, ptr %spare, i64 %spares)
  %calls = call i64 @word(ptr %w, i64 {CALLS})
  %calls1 = add i64 %calls, 1
  %calls.at = getelementptr i64, ptr %w, i64 {CALLS}
  store i64 %calls1, ptr %calls.at
  %several = call i64 @word(ptr %w, i64 {SEVERAL})
  %is.one = icmp eq i64 %several, 0
  br i1 %is.one, label %single, label %tuple
single:
  %first = call ptr @item(ptr %made, i64 0)
  ret ptr %first
tuple:
  %new = call ptr @item(ptr %w, i64 {TUPLE})
  %set = call ptr @item(ptr %w, i64 {SET_ITEM})
  %together = call ptr %new(i64 %results)
  %no.memory = icmp eq ptr %together, null
  br i1 %no.memory, label %none.left, label %fill
none.left:
  call void @drop(ptr %w, ptr %made, i64 %results)
  ret ptr null
fill:
  %t = phi i64 [0, %tuple], [%t1, %filling]
  %unfilled = icmp slt i64 %t, %results
  br i1 %unfilled, label %filling, label %full
filling:
  %member = call ptr @item(ptr %made, i64 %t)
  %answer = call i32 %set(ptr %together, i64 %t, ptr %member)
  %t1 = add i64 %t, 1
  br label %fill
full:
  ret ptr %together
}}

declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


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
            word: ctypes.cast(getattr(api, name), ctypes.c_void_p) for word, name in NAMES.items()
        }
        allocate, acquire = api.PyThread_allocate_lock, api.PyThread_acquire_lock
        bind = ctypes.PYFUNCTYPE(ctypes.py_object, *_BOUND)(("PyCMethod_New", api))
    except AttributeError:
        return None
    allocate.restype, acquire.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)
    lock = allocate()
    acquire(lock, 1)
    address = compiler.address_of(CODE, "fg_call")
    method = _Method(b"kernel", address, METH_FASTCALL, b"A kernel on arrays of its own kind.")
    return _Interpreter({word: f.value or 0 for word, f in found.items()}, lock, bind, method)


class Direct(NamedTuple):
    """A callable of arrays, and what it was made of."""

    call: Callable[..., Any]
    words: np.ndarray[Any, Any]

    @property
    def valid(self) -> bool:
        """Does it still run? A forked child has none of its parent's threads."""
        return bool(self.words[EPOCH] == jobs.HELPERS.epoch.value)

    @property
    def calls(self) -> int:
        """Those that found their arguments in order."""
        return int(self.words[CALLS])


def direct_call(
    work: Sequence[tuple[Work, Sequence[int], int]],
    arguments: Sequence[Array],
    outlets: Sequence[Callable[[], Array]],
    results: int,
    several: bool,
) -> Direct | None:
    """A callable that runs some jobs, or None where this interpreter has no such calls.

    Parameters
    ----------
    work : sequence of (Work, sequence of int, int)
        Each job, the place of each of its operands, and its threads. A place is that of an argument,
        or from ``len(arguments)`` on of what outlets made.
    arguments : sequence of numpy.ndarray
        Dense arrays of the shapes and dtypes that it will take.
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
    crews = [helpers.crew(threads - 1) for _, _, threads in work]
    wakes, move, epoch = [crew.wake for crew in crews], helpers.places.avoid_caller, helpers.epoch
    most = max(threads for _, _, threads in work)
    templates = [_template(*one) for one in work]
    sections: list[Sequence[int]] = [
        [fact for a in arguments for fact in (id(a.dtype), a.ndim, *a.shape)],
        [id(outlet) for outlet in outlets],
        [0] * (RECORD * len(work)),
        *templates,
        *(places for _, places, _ in work),
    ]
    words = np.zeros(HEAD + sum(map(len, sections)), np.int64)
    starts = list(itertools.accumulate(map(len, sections), initial=HEAD))
    for start, section in zip(starts, sections, strict=False):
        words[start : start + len(section)] = section
    checks_at, outlets_at, records_at, *rest = (words.ctypes.data + 8 * start for start in starts)
    for at, ((job, places, threads), template) in enumerate(zip(work, templates, strict=True)):
        words[starts[2] + RECORD * at :][:RECORD] = (
            rest[at], len(template), job.scratch_word, len(places), rest[len(work) + at], threads,
            crews[at].address, id(wakes[at]),
        )  # fmt: skip
    facts = {
        ARGUMENTS: len(arguments), CHECKS_AT: checks_at, ARRAY_TYPE: id(np.ndarray), NOTHING: id(None),
        RESULTS: results, MADE: len(outlets), OUTLETS_AT: outlets_at, SEVERAL: several,
        JOBS: len(work), RECORDS_AT: records_at, MOST_WORDS: max(map(len, templates)),
        MOST_THREADS: most, SCRATCH_BYTES: 0 if place >= 0 else scratch, SCRATCH_PLACE: place,
        AVOIDED_AT: helpers.places.avoided_at,
        MOVE: id(move), EPOCH: epoch.value, EPOCH_AT: ctypes.addressof(epoch),
        PROCESSOR_AT: PROCESSOR, LOCK_AT: interpreter.lock, **interpreter.functions,
    }  # fmt: skip
    for name, fact in facts.items():
        words[name] = fact
    dtypes, memory = [a.dtype for a in arguments], [job.held for job, _, _ in work]
    held = [words, wakes, move, list(outlets), dtypes, memory]
    method = ctypes.addressof(interpreter.method)
    return Direct(interpreter.bind(method, held, None, None), words)


def _template(work: Work, places: Sequence[int], threads: int) -> list[int]:
    """The words of a job, with room for the addresses of its operands."""
    job = [0] * jobs.JOB_OWN
    job[JOB_THREADS], job[jobs.JOB_TASKS], job[jobs.JOB_TASK] = threads, work.tasks, work.task
    return [*job, *work.words, *[0] * len(places)]
