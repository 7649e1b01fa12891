"""Jobs: compiled loops that threads share. Every task runs once; values are those of one thread."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.machine_file import default_machine

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm import codegen, compiler, jobs
from fusegraph.engines.llvm.halves import converts_halves
from fusegraph.engines.llvm.jobs import (
    JOB_DONE,
    JOB_LEFT,
    JOB_OWN,
    JOB_TAKEN,
    JOB_THREADS,
    run_job,
)
from fusegraph.engines.llvm.streaming import PAST

# A task that counts itself: word JOB_OWN of the job is the address of its counters.
COUNTER = f"""
define void @count(ptr %job, i64 %index, i64 %slot) {{
  %at = getelementptr i64, ptr %job, i64 {JOB_OWN}
  %counters = load ptr, ptr %at
  %mine = getelementptr i64, ptr %counters, i64 %index
  %before = atomicrmw add ptr %mine, i64 1 monotonic
  ret void
}}
"""


def counting_job(tasks):
    counters = np.zeros(max(1, tasks), np.int64)
    job = (ctypes.c_int64 * (JOB_OWN + 1))()
    job[jobs.JOB_TASKS] = tasks
    job[jobs.JOB_TASK] = compiler.address_of(COUNTER, "count")
    job[JOB_OWN] = counters.ctypes.data
    return job, counters


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("tasks", [0, 1, 2, 1000])
def test_every_task_runs_once(tasks, threads):
    for _ in range(20):
        job, counters = counting_job(tasks)
        run_job(job, threads)
        assert job[JOB_DONE] == tasks
        assert job[JOB_LEFT] == job[JOB_TAKEN] <= threads - 1
        assert (counters[:tasks] == 1).all()


def test_helpers_that_fell_asleep_wake_up_or_are_not_waited_for():
    for pause in (0.0, 0.001, 0.02):
        job, counters = counting_job(500)
        time.sleep(pause)
        run_job(job, 3)
        assert (counters == 1).all()


def test_there_are_no_more_helpers_than_processors():
    """199 threads looked for work where there were two processors."""
    processors = max(2, os.cpu_count() or 1)
    job, counters = counting_job(1000)
    run_job(job, 200)
    assert (counters == 1).all()
    assert 2 <= job[JOB_THREADS] <= processors
    x = np.arange(1 << 20, dtype=np.float32)
    f = fg.jit(
        lambda a: a * 2.5 + 1, engine="llvm", threads=200, machine=replace(MACHINE, cores=200)
    )
    for _ in range(3):
        np.testing.assert_array_equal(f(x), x * 2.5 + 1)
    assert f.plan(x).kernels[0].threads == 200
    assert len(jobs.HELPERS.started) < processors


def test_many_callers_share_the_helpers():
    def call(_):
        job, counters = counting_job(64)
        run_job(job, 3)
        return (counters == 1).all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_helpers_of_its_own():
    run_job(counting_job(10)[0], 2)
    child = os.fork()
    if not child:
        job, counters = counting_job(100)
        run_job(job, 2)
        os._exit(0 if (counters == 1).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupt_waits_until_no_helper_touches_the_job(monkeypatch):
    """Interrupted while it waits, the caller raises only when the job's memory is nobody's."""
    raised = []

    def sleep(seconds):
        if not raised:
            raised.append(seconds)
            raise KeyboardInterrupt

    job, counters = counting_job(4)
    known = jobs.calls()
    tired = iter([0, 0])
    slow = known._replace(complete=lambda *a: next(tired) if not raised else known.complete(*a))
    monkeypatch.setattr(jobs, "calls", lambda: slow)
    monkeypatch.setattr(jobs.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, 2)
    assert raised
    assert job[JOB_DONE] == 4
    assert (counters == 1).all()
    assert job[JOB_LEFT] == job[JOB_TAKEN]


@pytest.mark.parametrize(("tasks", "threads"), [(12, 3), (5, 4), (1, 2), (2, 5)])
def test_a_thread_takes_its_own_range_first(tasks, threads):
    """Then it takes what is left of the others', also of a helper that never comes."""
    taken = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    def task(job, index, slot):
        taken.append((slot, index))
        time.sleep(1e-3)

    job = (ctypes.c_int64 * JOB_OWN)()
    job[jobs.JOB_TASKS], job[jobs.JOB_TASK] = tasks, ctypes.cast(task, ctypes.c_void_p).value
    run_job(job, threads)
    assert sorted(index for _, index in taken) == list(range(tasks))
    for slot in {slot for slot, _ in taken}:
        start, end = (tasks * k // job[JOB_THREADS] for k in (slot, slot + 1))
        own = [index for number, index in taken if number == slot and start <= index < end]
        assert own == sorted(own)
        first = next(index for number, index in taken if number == slot)
        mine = [index for index in range(start, end) if (slot, index) in taken]
        assert first in mine or not mine


@pytest.mark.parametrize("where", ["begin", "wake", "complete"])
def test_a_job_that_was_interrupted_is_done_all_the_same(where, monkeypatch):
    """Once a deadlock: interrupted before it worked, the caller waited for tasks that nobody ran."""
    known, raised = jobs.calls(), []

    def interrupted(call):
        def run(*arguments):
            if not raised:
                raised.append(where)
                raise KeyboardInterrupt
            return call(*arguments)

        return run

    if where == "wake":
        monkeypatch.setattr(jobs.Helper, "wake", interrupted(jobs.Helper.wake))
        time.sleep(0.02)  # until the helpers sleep
    else:
        faulty = known._replace(**{where: interrupted(getattr(known, where))})
        monkeypatch.setattr(jobs, "calls", lambda: faulty)
    job, counters = counting_job(100)
    try:
        run_job(job, 3)
    except KeyboardInterrupt:
        assert raised
    assert (counters == 1).all()
    assert job[JOB_DONE] == 100
    monkeypatch.undo()
    job, counters = counting_job(100)  # and the helpers still serve
    run_job(job, 3)
    assert (counters == 1).all()


STORM = """
import signal, sys, time
import numpy as np, fusegraph as fg
x = np.linspace(-3, 3, 300_000, dtype=np.float32)
f = fg.jit(fg.gelu, engine="llvm", threads=2)
expected = f(x)
end, seen = time.monotonic() + 3, 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, 20e-6 + seen % 30 * 20e-6)
        for _ in range(50):
            f(x)
    except KeyboardInterrupt:
        seen += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
assert np.array_equal(f(x), expected)
print(seen)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
def test_a_storm_of_interrupts_leaves_the_process_working():
    run = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 100


# --- kernels --------------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


STREAMS = {k: v * (4 if k.endswith("all") else 1) for k, v in default_machine().streams.items()}
MACHINE = replace(default_machine(), streams=STREAMS, cores=8)  # whose threads pay
KERNELS = {
    "flat": (lambda x: x * 2.5 + 1, (1 << 20,)),
    "flat, one element beside": (lambda x: x / x[:1], (1 << 20,)),
    "rows": (softmax, (3001, 257)),
    "partial sums": (lambda x: ((x - 1) * (x - 1)).sum(), (3_000_001,)),
    "batches": (softmax, (7, 301, 300)),
}


@pytest.mark.parametrize(("build", "shape"), KERNELS.values(), ids=KERNELS)
def test_values_do_not_depend_on_threads(build, shape, assert_same):
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    settings = {"engine": "llvm", "machine": MACHINE}
    plans = [fg.plan(build(fg.asarray(x)), threads=n, **settings) for n in (1, 2, 3, 8)]
    alone, *shared = [plan.run()[0] for plan in plans]
    assert max(kernel.threads for kernel in plans[-1].kernels) == 8
    for result in shared:
        assert_same(result, alone)


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 77, 16385 * 7 + 3])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "c16", "?"])
def test_results_that_go_past_the_caches(size, dtype, assert_same):
    """Whole lines by non-temporal stores, and what is before and behind them; several results."""
    x = (np.random.default_rng(0).standard_normal(size) * 9).astype(dtype)
    small = replace(MACHINE, l3_bytes=1 << 16, l2_bytes=1 << 15)
    t = fg.asarray(x)
    with fg.options(engine="llvm", machine=small, threads=2):
        plan = fg.plan(t + x[:1], t == x[:1])
        (kernel,) = plan.kernels
        assert kernel.streams
        assert "results go past the caches" in str(plan)
        assert_same(plan.run()[0], x + x[:1])
        assert_same(plan.run()[1], x == x[:1])
        out = np.empty(size + 1, x.dtype)[1:]  # begins within a line
        assert_same((t + x[:1]).compute(out=out), x + x[:1])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "c16"])
def test_kernels_past_the_caches_store_every_vector_so(dtype):
    x = fg.asarray(np.ones(1 << 20, dtype))
    (region,) = (kernel.region for kernel in (x + x).plan(engine="llvm").kernels)
    text = codegen.generate(region).text(converts_halves())
    vectors = re.findall(r"store <\d+ x ", compiler.optimised(text))
    assert len(vectors) == compiler.optimised(PAST + text).count("!nontemporal") > 0
    assert "!nontemporal" not in compiler.optimised(text)


@pytest.mark.parametrize("shape", [(3000, 401), (401, 3000), (90_000, 7), (5, 300, 411)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "c16", "?"])
def test_strided_results_that_go_past_the_caches(shape, dtype, assert_same):
    """A row or a column beside; results that are not dense are written as before."""
    x = (np.random.default_rng(0).standard_normal(shape) * 9).astype(dtype)
    small = replace(MACHINE, l3_bytes=1 << 16, l2_bytes=1 << 15)
    row, column = x[..., :1, :], x[..., :1]
    t, r, c = map(fg.asarray, (x, row, column))
    with fg.options(engine="llvm", machine=small, threads=2):
        plan = fg.plan(t + r, (t + r) == c)
        (kernel,) = plan.kernels
        assert kernel.schedule == "strided"
        assert kernel.streams
        assert_same(plan.run()[0], x + row)
        assert_same(plan.run()[1], (x + row) == column)
        for out in (np.empty((*shape[:-1], shape[-1] + 1), dtype)[..., 1:], np.empty_like(x)):
            assert_same((t + r).compute(out=out), x + row)
        f = fg.jit(lambda a, b: a + b)
        for _ in range(3):
            assert_same(f(x, row), x + row)


def test_results_go_past_the_caches_where_nothing_of_them_would_be_left():
    """They did from half of L3 on: 24 MB took twice as long so, with 32 MiB of L3."""
    machine = replace(MACHINE, l3_bytes=32 << 20)
    for megabytes, past in ((24, False), (32, False), (48, True)):
        x = fg.asarray(np.empty(megabytes * 10**6 // 8, np.float32))
        (kernel,) = (x * 2.5 + 1).plan(engine="llvm", machine=machine, threads=2).kernels
        assert kernel.streams is past
    huge = replace(machine, l3_bytes=480 << 20)  # as a virtual machine may say
    x = fg.asarray(np.empty(32_000_000, np.float32))
    (kernel,) = (x * 2.5 + 1).plan(engine="llvm", machine=huge, threads=2).kernels
    assert kernel.streams


def test_functions_take_longer_than_reading_the_lines_of_their_results():
    """Past the caches GELU took up to 1.7 times as long in some processes."""
    x = fg.asarray(np.empty(32_000_000, np.float32))
    settings = {"engine": "llvm", "machine": default_machine(), "threads": 2}
    assert (x * 2.5 + 1).plan(**settings).kernels[0].streams
    for t in (fg.gelu(x), fg.exp(x) + 1):
        assert not t.plan(**settings).kernels[0].streams


def test_a_triad_in_memory_is_compiled_since_its_stores_then_read_no_lines():
    """It stayed with NumPy, whose bytes are as many for the program, and took 1.2 times as long."""
    a, b = (fg.asarray(np.zeros(32_000_000, np.float32)) for _ in range(2))
    machine = default_machine()
    (kernel,) = fg.plan(a + 2.5 * b, machine=machine, threads=2).kernels
    assert kernel.tier is not None
    compiled = kernel.tier.kernel
    assert compiled.streams
    moved, written = kernel.cost.bytes_moved, kernel.cost.bytes_written
    saved = machine.transfer_seconds(moved, written, 2) - machine.transfer_seconds(moved, 0, 2)
    assert kernel.seconds - compiled.seconds == pytest.approx(saved, rel=0.1)


def test_arrays_that_are_not_dense_find_another_way(assert_same):
    x = np.random.default_rng(0).standard_normal((1 << 20) + 1, dtype=np.float32)
    unaligned = np.frombuffer(b"x" + x.tobytes(), np.uint8)[1 : 1 + 4 * x.size].view(np.float32)
    f = fg.jit(lambda a: a * 2.5 + 1, engine="llvm", threads=2)
    assert_same(f(unaligned), f(x))
    rows = fg.jit(softmax, engine="llvm", threads=2)
    table = x[: 1 << 20].reshape(1024, 1024)
    assert_same(rows(table[:, ::2]), rows(table[:, ::2].copy()))


def test_several_threads_call_one_function(assert_same):
    x = np.random.default_rng(0).standard_normal((600, 1000), dtype=np.float32)
    f = fg.jit(softmax, engine="llvm", threads=2)
    expected = f(x)
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(f(x) for _ in range(20))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    for result in found:
        assert_same(result, expected)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "c8"])
@pytest.mark.parametrize("shape", [(300, 100), (3, 50, 100), (40, 3), (7, 1)], ids=str)
def test_operands_that_repeat_for_every_row_are_packed_once(shape, dtype, assert_same):
    """Rows too short for a loop each: tiles of several rows beside one packed row."""
    x = (np.random.default_rng(0).standard_normal(shape) * 9).astype(dtype)
    row, column = x[..., :1, :], x[..., :1]
    for build in (lambda a, r, c: a + r + c, lambda a, r, c: (a - r[..., ::-1]) + r):
        t = build(*(fg.asarray(v) for v in (x, row, column)))
        assert_same(t.compute(engine="llvm"), build(x, row, column))
