"""Options: checked once, scoped to a block and a thread, and kept by what they promise."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.machine_file import default_machine
from fusegraph.options import Options, current_options

X = np.linspace(-3, 3, 50_000)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        (
            {"engine": "cuda"},
            ValueError,
            "option engine='cuda': choose one of auto, numpy, numexpr",
        ),
        ({"engine": None}, ValueError, "option engine=None"),
        ({"fuse": 1}, TypeError, "option fuse=1: give True or False"),
        ({"exact": "yes"}, TypeError, "option exact='yes'"),
        ({"verify": None}, TypeError, "option verify=None"),
        ({"threads": 0}, ValueError, "option threads=0: give a positive integer or None"),
        ({"threads": -2}, ValueError, "option threads=-2"),
        ({"threads": 1.0}, TypeError, "option threads=1.0"),
        ({"threads": True}, TypeError, "option threads=True"),
        ({"threads": np.True_}, TypeError, "option threads="),
        ({"threads": np.int64(0)}, ValueError, "option threads="),
        ({"memory_limit": True}, TypeError, "option memory_limit=True"),
        ({"memory_limit": 0}, ValueError, "option memory_limit=0"),
        ({"memory_limit": "1GB"}, TypeError, "option memory_limit='1GB'"),
        ({"machine": "fast"}, TypeError, "option machine='fast'"),
        ({"thread": 2}, TypeError, "unknown option 'thread': the options are engine, fuse, exact"),
    ],
)
def test_wrong_options_are_named(changes, kind, text):
    with pytest.raises(kind, match=text):
        fg.options(**changes)
    with pytest.raises(kind, match=text):
        (fg.asarray(X) + 1).compute(**changes)
    with pytest.raises(kind, match=text):
        fg.plan(fg.asarray(X) + 1, **changes)


def test_numpys_integers_are_integers():
    found = Options(threads=np.int64(2), memory_limit=np.uint32(1 << 30))
    assert found == Options(threads=2, memory_limit=1 << 30)
    assert (type(found.threads), type(found.memory_limit)) == (int, int)


def test_a_block_sets_and_restores():
    before = current_options()
    with fg.options(threads=1, engine="numpy") as inside:
        assert (inside.threads, inside.engine, inside.verify) == (1, "numpy", before.verify)
        with fg.options(threads=2):
            assert (current_options().threads, current_options().engine) == (2, "numpy")
        assert current_options() is inside
    assert current_options() == before
    with pytest.raises(ZeroDivisionError), fg.options(threads=1):
        raise ZeroDivisionError
    assert current_options() == before


def test_options_belong_to_a_thread():
    seen = []
    with fg.options(engine="numpy", threads=1):
        thread = threading.Thread(target=lambda: seen.append(current_options()))
        thread.start()
        thread.join()
    assert seen == [Options()]


def test_one_block_serves_again_and_within_itself():
    before = current_options()
    plain = fg.options(engine="numpy")
    for _ in range(2):
        with plain as outer, fg.options(threads=1), plain as inner:
            assert (outer.engine, outer.threads) == ("numpy", before.threads)
            assert (inner.engine, inner.threads) == ("numpy", 1), "it adds to what is in force"
        assert current_options() is before


def test_blocks_that_end_out_of_order_leave_nothing():
    before = current_options()
    first, second = fg.options(engine="numpy"), fg.options(threads=1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert current_options() is before


def test_threads_and_tasks_share_a_block():
    before, plain = current_options(), fg.options(engine="numpy")
    meeting = threading.Barrier(2)
    seen = []

    def in_thread(threads):
        with fg.options(threads=threads), plain as inside:
            meeting.wait(10)
            seen.append((inside.threads, current_options() is inside))
            meeting.wait(10)
        seen.append(current_options() == Options())

    workers = [threading.Thread(target=in_thread, args=(n,)) for n in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(seen[:2]) == [(1, True), (2, True)]
    assert seen[2:] == [True, True]

    async def in_task(threads):
        with fg.options(threads=threads), plain:
            await asyncio.sleep(0)
            inside = current_options()
        return inside.engine, inside.threads, current_options() is before

    async def both():
        return await asyncio.gather(in_task(1), in_task(2))

    assert asyncio.run(both()) == [("numpy", 1, True), ("numpy", 2, True)]


def test_a_block_decorates_functions():
    @fg.options(engine="numpy")
    def inside(depth):
        """Options in force."""
        return inside(depth - 1) if depth else current_options().engine

    before = current_options()
    assert [inside(0), inside(2)] == ["numpy", "numpy"]
    assert inside.__doc__ == "Options in force."
    assert current_options() is before


def test_a_decorated_function_that_runs_later_is_refused():
    async def task(): ...

    def numbers():
        yield

    for function in (task, numbers):
        with pytest.raises(
            TypeError, match=rf"options: {function.__name__} .* write `with fg\.opt"
        ):
            fg.options(engine="numpy")(function)


def test_options_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        current_options().engine = "numpy"


def test_engine_by_name():
    t = fg.asarray(X) * 2 + 1
    for engine in ("numpy", "numexpr"):
        assert {k.engine for k in t.plan(engine=engine).kernels} == {engine}


def test_fuse_off_runs_every_op_alone():
    t = fg.asarray(X) * 2 + 1
    assert len(t.plan(fuse=False).kernels) == 2
    assert len(t.plan(fuse=True).kernels) == 1


@pytest.mark.parametrize("name", ["auto", "numexpr", "numpy"])
def test_exact_is_bit_identical(name, assert_same):
    t = fg.asarray(X)
    result = (fg.tanh(t) ** 3 + fg.exp(t) * fg.sin(t)).compute(exact=True, engine=name)
    assert_same(result, np.tanh(X) ** 3 + np.exp(X) * np.sin(X))


def test_memory_limit_refuses_before_running():
    t = fg.asarray(X) * 2
    peak = t.plan().peak_bytes
    assert t.compute(memory_limit=peak).nbytes < peak
    again = fg.asarray(X) * 3
    with pytest.raises(
        fg.MemoryLimitError, match=r"kernel k0 brings the plan to .* raise the limit"
    ):
        again.compute(memory_limit=1000)
    assert again.pending == 1


def test_a_plan_without_kernels_is_refused_without_naming_one():
    with pytest.raises(
        fg.MemoryLimitError, match=r"^the plan has no kernels, but may take .* bytes"
    ):
        fg.plan(fg.asarray(X), memory_limit=1000).run()


def test_a_refusal_can_leave_its_process():
    with pytest.raises(fg.MemoryLimitError) as caught:
        (fg.asarray(X) * 3).compute(memory_limit=1000)
    assert caught.value.plan.peak_bytes > 1000
    caught.value.add_note("in part 3")
    for again in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(again, fg.MemoryLimitError)
        assert str(again) == str(caught.value)
        assert (again.plan, again.__notes__) == (None, ["in part 3"])


def test_trace_source_names_the_users_line():
    with fg.options(trace_source=True):
        t = fg.asarray(X[:7]) * 11.25 - 3.75
        assert all("test_options.py:" in line for k in t.plan().kernels for line in k.sources)
        assert t.plan().kernels[0].sources


def test_trace_source_names_a_file_whose_name_begins_like_the_package():
    beside = Path(fg.__file__).parent.with_name("fusegraph_extra.py")
    built = {"fg": fg, "X": X}
    with fg.options(trace_source=True):
        exec(compile("t = fg.asarray(X[:5]) * 7.75 - 1.25", str(beside), "exec"), built)
    sources = [line for k in built["t"].plan().kernels for line in k.sources]
    assert sources == ["fusegraph_extra.py:1"]


def test_a_machine_can_be_given():
    machine = dataclasses.replace(default_machine(), name="paper", cores=64)
    assert (fg.asarray(X) + 1).plan(machine=machine).plan.machine is machine


def test_plans_are_cached_by_graph_and_options():
    fg.clear_caches()
    for value in (X, X + 1, X * 2):
        (fg.asarray(value) * 2 + 1).compute()
    assert len(fg.cached_plans()) == 1
    (fg.asarray(X) * 2 + 1).compute(threads=1)
    (fg.asarray(X[:10]) * 2 + 1).compute()
    assert len(fg.cached_plans()) == 3
    fg.clear_caches()
    assert fg.cached_plans() == []
