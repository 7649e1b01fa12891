"""Threads: many callers, bounds, results that do not depend on them, interrupts, forks."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import numexpr
import numpy as np
import pytest

import fusegraph as fg
from fusegraph import blas_threads, elementwise_choice, forks, graph, workers
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.machine_file import default_machine
from fusegraph.properties import lazy_property

X = np.linspace(-3, 3, 300_001)


def bodies(t):
    return {
        "chain": (t * 2 + 1) * t - 0.5,
        "functions": fg.tanh(t) * fg.exp(-t * t),
        "sum": (t * t).sum(),
        "rows": (t[:300_000].reshape(300, 1000) * 2).sum(axis=1),
        "several": fg.where(t > 0, t, t * 0.25),
    }


@pytest.mark.parametrize("engine", ["numpy", "numexpr"], indirect=True)
def test_many_threads_get_right_results(engine):
    expected = {name: t.compute() for name, t in bodies(fg.asarray(X)).items()}

    def work(seed):
        names = list(expected)
        with fg.options(engine=engine, threads=1 + seed % 3):
            for turn in range(6):
                name = names[(seed + turn) % len(names)]
                tensor = bodies(fg.asarray(X.copy()))[name]
                np.testing.assert_array_equal(tensor.compute(), expected[name])

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(16)]:
            future.result(timeout=120)


@pytest.mark.parametrize("engine", ["numpy", "numexpr"], indirect=True)
def test_one_kernel_from_many_threads(engine):
    """One compiled numexpr program called from two threads corrupts the heap."""
    plan = (fg.asarray(X[:5000]) * 2 + 1).plan()
    expected = X[:5000] * 2 + 1

    def work():
        for _ in range(100):
            np.testing.assert_array_equal(plan.run()[0], expected)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work) for _ in range(6)]:
            future.result(timeout=120)


def test_one_jit_function_from_many_threads():
    f = fg.jit(lambda x: x * 2 + 1)

    def work(seed):
        for size in range(2 + seed % 3, 60):
            x = np.full(size, float(seed))
            np.testing.assert_array_equal(f(x), x * 2 + 1)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(16)]:
            future.result(timeout=120)


def test_a_node_that_dies_takes_no_equal_one_along(after_instructions):
    """Another thread made it while the old one's entry was looked at: the next was a second object."""
    x = fg.asarray(X)

    def dies_beside_another(count):
        node, made = (x * 2.0).node, []
        with after_instructions(count, lambda: made.append((x * 2.0).node), graph) as ended:
            del node
        if made:
            assert (x * 2.0).node is made.pop(), count
        return ended()

    assert next(n for n in itertools.count(1) if dies_beside_another(n)) > 3


def test_threads_that_make_equal_nodes_share_one():
    x, turns = fg.asarray(X), 300
    nodes, unequal = [None] * 6, []

    def compare():
        unequal.extend(node for node in nodes if node is not nodes[0])
        nodes[:] = [None] * 6  # so that the next turn's are new

    barrier = threading.Barrier(6, compare)

    def work(thread):
        for _ in range(turns):
            nodes[thread] = (x * 2.0).node
            barrier.wait(60)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, thread) for thread in range(6)]:
            future.result(timeout=120)
    assert unequal == []


@pytest.mark.parametrize("engine", ["numpy", "numexpr"], indirect=True)
@pytest.mark.parametrize("name", ["chain", "functions", "sum", "rows", "several"])
def test_results_do_not_depend_on_threads(engine, name):
    one, two, three = (
        bodies(fg.asarray(X))[name].compute(threads=threads) for threads in (1, 2, 3)
    )
    np.testing.assert_array_equal(one, two, strict=True)
    np.testing.assert_array_equal(one, three, strict=True)


@pytest.mark.parametrize("block", [2048, 4096, 65536])
def test_results_do_not_depend_on_blocks(block, monkeypatch):
    with fg.options(engine="numpy", threads=2):
        expected = {name: t.compute() for name, t in bodies(fg.asarray(X)).items()}
        monkeypatch.setattr(elementwise_choice, "SMALLEST_BLOCK", block)
        monkeypatch.setattr(elementwise_choice, "LARGEST_BLOCK", block)
        fg.clear_caches()
        for name, tensor in bodies(fg.asarray(X)).items():
            np.testing.assert_array_equal(tensor.compute(), expected[name], strict=True)
    fg.clear_caches()


@pytest.mark.parametrize("name", ["flat", "reduction"])
@pytest.mark.parametrize("engine", ["numpy", "numexpr", "llvm"])
def test_more_threads_than_cores_do_no_more(engine, name):
    """They divided the arithmetic by 200 where two cores do it."""
    machine = dataclasses.replace(default_machine(), cores=2)
    t = fg.asarray(np.ones((1000, 1000)))
    t = fg.tanh(t) * fg.sin(t) if name == "flat" else (fg.exp(t) * t).sum(-1)
    two, many = (t.plan(engine=engine, threads=n, machine=machine) for n in (2, 200))
    assert [k.threads for k in many.kernels] == [k.threads for k in two.kernels]
    assert many.seconds == two.seconds
    assert many.peak_bytes == two.peak_bytes


@pytest.mark.options(engine="numpy")
def test_one_thread_is_the_calling_one(monkeypatch):
    def refuse(*_):
        raise AssertionError("a worker thread was asked for")

    monkeypatch.setattr(workers._Threads, "give", refuse)
    t = (fg.tanh(fg.asarray(X)) * 2).compute(threads=1)
    np.testing.assert_array_equal(t, np.tanh(X) * 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_numexpr_is_held_to_the_bound_and_then_restored(threads, monkeypatch):
    outer = numexpr.set_num_threads(3)
    try:
        asked = []
        set_num_threads = numexpr.set_num_threads
        monkeypatch.setattr(
            numexpr, "set_num_threads", lambda n: asked.append(n) or set_num_threads(n)
        )
        t = fg.asarray(X)
        for _ in range(30):  # enough work for more than one thread
            t = fg.sin(t)
        t.compute(engine="numexpr", threads=threads)
        assert asked == [threads, 3]
        assert numexpr.get_num_threads() == 3
    finally:
        monkeypatch.undo()
        numexpr.set_num_threads(outer)


def run_script(script, timeout=60, interrupt=False):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if interrupt:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")
@pytest.mark.parametrize("engine", ["numpy", "numexpr"])
def test_an_interrupted_process_stays_usable(engine):
    out = run_script(
        f"""
        import numpy as np, fusegraph as fg
        x = np.linspace(0, 1, 4_000_000)
        t = fg.asarray(x)
        for _ in range(60):
            t = fg.sin(t) * 1.5 + 0.1
        small = fg.asarray(np.arange(5.0))
        with fg.options(engine={engine!r}, threads=2):
            (small + 2).compute()
            try:
                print("ready", flush=True)
                for turn in range(200):
                    (t + turn).compute()
                print("finished")
            except KeyboardInterrupt:
                print("interrupted")
            large = (fg.asarray(x) * 2 + 1).compute()
            np.testing.assert_array_equal(large, x * 2 + 1)
            np.testing.assert_array_equal((small * 3).compute(), np.arange(5.0) * 3)
        """,
        interrupt=True,
    )
    assert out == "interrupted\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("engine", ["numpy", "numexpr", "auto"])
def test_a_forked_child_can_compute(engine):
    out = run_script(
        f"""
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        import numpy as np, fusegraph as fg
        x = np.linspace(0, 1, 1_000_000)
        def work():
            with fg.options(engine={engine!r}, threads=2):
                return (fg.tanh(fg.asarray(x)) * 2 + fg.asarray(x)).compute()
        expected = work()
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(work(), expected) else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert out == "0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("engine", ["auto", *ELEMENTWISE_ENGINES])
def test_a_child_computes_that_was_forked_beside_a_thread_that_does(engine):
    """All children of 20 hung: the thread was compiling, whose lock they found taken."""
    out = run_script(
        f"""
        import itertools, os, signal, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        import numpy as np, fusegraph as fg
        x = np.linspace(0, 1, 1000)
        def compute(number):
            t = fg.asarray(x) * (number + 0.5)
            for _ in range(number % 5):
                t = fg.sqrt(t) - number * t
            return t.sum().compute(engine={engine!r}) + fg.jit(lambda t: t * number)(x)[-1]
        def compute_others():
            for number in itertools.count(1):
                compute(number)
        compute(0)
        for _ in range(2):
            threading.Thread(target=compute_others, daemon=True).start()
        children = []
        for number in range(12):
            time.sleep(0.01)
            children.append(os.fork())
            if not children[-1]:
                signal.alarm(20)  # ends it
                compute(1_000_000 + number)
                os._exit(0)
        print({{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}})
        """
    )
    assert out == "{0}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_is_not_bound_by_products_of_threads_that_it_does_not_have():
    out = run_script(
        """
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        from types import SimpleNamespace
        import fusegraph
        from fusegraph.blas_threads import BLAS_THREADS
        library = SimpleNamespace(num_threads=4)
        library.set_num_threads = lambda n: setattr(library, "num_threads", n)
        BLAS_THREADS._controller = SimpleNamespace(lib_controllers=[library])
        begun, done = threading.Event(), threading.Event()
        def multiply():
            with BLAS_THREADS.at_most(1):
                begun.set()
                done.wait()
        thread = threading.Thread(target=multiply)
        thread.start()
        begun.wait()
        child = os.fork()
        if not child:
            os._exit(library.num_threads)
        print(library.num_threads, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        thread.join()
        print(library.num_threads)
        """
    )
    assert out == "1 4\n4\n"


def free(lock):
    """May another thread take it?"""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: lock.acquire(blocking=False) and not lock.release()).result()


@pytest.fixture
def two_locks():
    known, made = forks.Locks(), [threading.RLock(), threading.RLock()]
    for lock in made:
        known.add(lock)
    return known, made


@pytest.mark.parametrize("order", [1, -1])
def test_who_forks_waits_for_locks_in_whatever_order_they_are_nested(order, two_locks):
    known, made = two_locks
    outer, inner = made[::order]
    begun, entered, left = threading.Event(), threading.Event(), threading.Event()

    def nest():
        with outer:
            begun.set()
            entered.wait(0.1)  # the other thread waits for this lock by then
            with inner:
                pass
        left.set()

    thread = threading.Thread(target=nest, daemon=True)
    thread.start()
    assert begun.wait(10)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(lambda: known.take() or [left.is_set(), known.give_back()])
        assert taking.result(timeout=10) == [True, None]
    thread.join(10)
    assert all(map(free, made))


def test_an_interrupt_at_any_instruction_leaves_no_lock_taken(two_locks, after_instructions):
    known, made = two_locks

    def interrupt():
        raise KeyboardInterrupt

    for count in itertools.count(1):
        with after_instructions(count, interrupt, forks) as ended:
            with suppress(KeyboardInterrupt):
                known.take()
            if not ended():
                known.give_back()
        if ended():
            break
        assert all(map(free, made)), count
    assert count > 50


def test_an_interrupted_fork_still_waits_for_the_locks(two_locks, monkeypatch):
    known, made = two_locks
    interrupts = [KeyboardInterrupt()]
    take_all = forks._take_all

    def interrupted(locks):
        at = take_all(locks)
        if interrupts:
            raise interrupts.pop()
        return at

    monkeypatch.setattr(forks, "_take_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        known.take()
    assert not any(map(free, made))
    known.give_back()
    assert all(map(free, made))


def test_a_lock_that_is_gone_is_taken_no_more(two_locks):
    known, made = two_locks
    made.pop()
    known.take()
    assert known._taken[threading.get_ident()] == made
    known.give_back()


def test_properties_of_two_objects_are_made_side_by_side():
    """Python 3.11's have one lock for all objects: a child forked meanwhile found it taken, and hung."""
    making, made = threading.Event(), threading.Event()

    class Value:
        def __init__(self, first):
            self.first = first

        @lazy_property
        def twice(self):
            if self.first:
                making.set()
                assert made.wait(10)
            return object()

    one, other = Value(True), Value(False)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(lambda: one.twice)
        assert making.wait(10)
        with ThreadPoolExecutor(1) as second:
            try:
                found = second.submit(lambda: other.twice).result(timeout=10)
            finally:
                made.set()
        assert begun.result(timeout=10) is one.twice
    assert other.twice is found


def test_an_error_in_a_block_is_raised_in_the_caller():
    base = fg.asarray(np.full(300_000, 2))
    with pytest.raises(ValueError, match="negative integer powers"):
        (base ** fg.asarray(np.full(300_000, -1))).compute(threads=2, engine="numpy")
    np.testing.assert_array_equal((base + 1).compute(), np.full(300_000, 3))


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the system does not say where threads run, or has one processor",
)
def test_threads_keep_off_the_callers_processor(monkeypatch):
    """Woken beside its caller, a thread shared one processor with it while another was idle."""
    allowed = os.sched_getaffinity(0)
    places = workers.Places()
    ready, done = threading.Event(), threading.Event()

    def other():
        places.join()
        ready.set()
        done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    try:
        for here in sorted(allowed)[:2]:
            monkeypatch.setattr(workers, "_processor", lambda here=here: here)
            places.avoid_caller()
            assert os.sched_getaffinity(thread.native_id) == allowed - {here}
    finally:
        done.set()
        thread.join()
    assert os.sched_getaffinity(0) == allowed
    monkeypatch.setattr(workers, "_processor", lambda: min(allowed))
    places.avoid_caller()  # of a thread that ended


def test_threads_go_anywhere_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(workers, "_processor", lambda: -1)
    places = workers.Places()
    places.join()
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    places.avoid_caller()
    assert before is None or os.sched_getaffinity(0) == before


def test_a_helper_that_came_too_late_holds_no_array():
    """It stays in the queue: what it held could not be used again, and the peak was passed."""
    gate, busy = threading.Event(), threading.Semaphore(0)

    def wait():
        busy.release()
        gate.wait(10)
        busy.release()

    count = os.cpu_count() or 1
    workers._THREADS.give([wait] * count)
    for _ in range(count):
        assert busy.acquire(timeout=10)
    array = np.empty(100_000)
    held = weakref.ref(array)

    def make_task(array=array):
        return lambda index: array[index : index + 1].fill(0)

    workers.run_tasks(make_task, 4, 2)
    del array, make_task
    assert held() is None
    gate.set()
    for _ in range(count):
        assert busy.acquire(timeout=10)


def test_an_interrupt_at_any_instruction_leaves_workers_that_work(after_instructions):
    """A Future's lock stayed held where one came while it was asked: the process hung."""

    def interrupt():
        raise KeyboardInterrupt

    def run():
        done = []
        workers.run_tasks(lambda: done.append, 6, 3)
        return sorted(done)

    run()  # the threads are there
    for count in itertools.count(1):
        with after_instructions(count, interrupt, workers) as ended, suppress(KeyboardInterrupt):
            run()
        assert run() == [0, 1, 2, 3, 4, 5], count
        if ended():
            break
    assert count > 100


class Library:
    """A BLAS, as threadpoolctl shows one."""

    def __init__(self, num_threads):
        self.num_threads = num_threads

    def set_num_threads(self, number):
        self.num_threads = number


@pytest.fixture
def blas():
    """Bounds over two libraries that the user lets have 4 and 3 threads."""
    found = blas_threads.BlasThreads()
    found._controller = SimpleNamespace(lib_controllers=[Library(4), Library(3)])
    return found


def threads_of(blas):
    return [library.num_threads for library in blas._controller.lib_controllers]


def test_products_share_the_smallest_bound_and_the_last_one_restores(blas):
    first, second = blas.at_most(2), blas.at_most(1)
    first.__enter__()
    assert threads_of(blas) == [2, 2]
    second.__enter__()
    assert threads_of(blas) == [1, 1]
    first.__exit__()
    assert threads_of(blas) == [1, 1]
    second.__exit__()
    assert threads_of(blas) == [4, 3]
    blas._controller.lib_controllers[0].num_threads = 2  # by the user
    with blas.at_most(3):
        assert threads_of(blas) == [2, 3]
    assert threads_of(blas) == [2, 3]


def test_a_bound_that_holds_anyway_is_not_set(blas, monkeypatch):
    monkeypatch.setattr(Library, "set_num_threads", None)  # calling it raises
    with blas.at_most(4):
        assert threads_of(blas) == [4, 3]
    monkeypatch.undo()
    loose = blas.at_most(2)
    with blas.at_most(2):
        loose.__enter__()  # holds because of the other one, which ends first
    assert threads_of(blas) == [2, 2]
    loose.__exit__()
    assert threads_of(blas) == [4, 3]


@pytest.mark.parametrize(
    ("libraries", "most"),
    [
        ([("openblas", "0.3.31.188.0")], blas_threads.SERIAL_VECTOR_SINCE),
        ([("openblas", "0.4.0")], blas_threads.SERIAL_VECTOR_SINCE),
        ([("openblas", "0.3.31"), ("openblas", "0.3.29")], blas_threads.SERIAL_VECTOR),
        ([("openblas", None)], blas_threads.SERIAL_VECTOR),
        ([("mkl", "2025.1")], blas_threads.SERIAL_VECTOR),
    ],
)
def test_what_runs_on_one_thread_anyway_is_known_of_recent_releases(libraries, most, blas):
    blas._controller.lib_controllers = [
        SimpleNamespace(internal_api=name, version=version) for name, version in libraries
    ]
    assert blas.serial_vector == most


@pytest.mark.parametrize("others", [[], [3]])
def test_an_interrupt_at_any_instruction_ends_the_bound_of_a_product(
    others, blas, after_instructions
):
    """Every product of the process ran on one thread from then on."""

    def interrupt():
        raise KeyboardInterrupt

    contexts = [blas.at_most(bound) for bound in others]
    for context in contexts:
        context.__enter__()
    before = threads_of(blas)
    for count in itertools.count(1):
        with (
            after_instructions(count, interrupt, blas_threads) as ended,
            suppress(KeyboardInterrupt),
            blas.at_most(1),
        ):
            assert threads_of(blas) == [1, 1]
        assert threads_of(blas) == before, count
        if ended():
            break
    assert count > 100
    for context in contexts:
        context.__exit__()
    assert threads_of(blas) == [4, 3]


def test_an_interrupt_that_is_kept_keeps_no_bound(blas, monkeypatch):
    """A notebook keeps the last traceback, and with it what the frames hold."""

    def interrupted(self, number):
        self.num_threads = number
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Library, "set_num_threads", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept, blas.at_most(1):
        pass
    assert threads_of(blas) == [4, 3]
    context = blas.at_most(1)
    context.__enter__()
    monkeypatch.setattr(Library, "set_num_threads", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept_too:
        context.__exit__()
    assert threads_of(blas) == [4, 3]
    assert kept.traceback
    assert kept_too.traceback
