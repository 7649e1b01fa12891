"""Tiers: a kernel starts on NumPy or numexpr, and is compiled at the call that predictions fix."""

import sys
import threading

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.compare import ulps_apart
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.execute import Program
from fusegraph.kernel import BETWEEN
from fusegraph.ops import OPS

RNG = np.random.default_rng(0)


def values(*shape):
    return (RNG.standard_normal(shape) * 5).astype("f4")


def direct_calls(f):
    return sum(direct.calls for _, direct in f._direct[1])


def normalise(x):
    return (x - x.mean()) / (x.std() + 1e-6)


def softmax(x):
    e = fg.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


FUNCTIONS = {
    "element-wise": fg.gelu,
    "cheap": lambda x: x * 2 + 1,
    "a reduction alone": lambda x: x.mean(axis=0),
    "panels": lambda x: ((x - 1) * (x - 1)).sum(),
    "rows": softmax,
    "several kernels": normalise,
    "products beside": lambda x: ((x.T[:8] @ x[:, :8]) * 2, x + 1),
    "attention": lambda x: softmax(x[:, :16] @ x[:, :16].T) @ x[:, :16],
}
SHAPES = [(30, 40), (400, 300), (1000, 1000), (3000, 1000)]


def test_a_tier_begins_where_what_it_saved_exceeds_compiling():
    x = values(400_000)
    (kernel,) = fg.jit(fg.gelu).plan(x).kernels
    tier = kernel.tier
    assert tier.saved_seconds == kernel.seconds - tier.kernel.seconds
    assert tier.compile_seconds == ELEMENTWISE_ENGINES["llvm"].compile_seconds(kernel.region)
    assert (tier.call - 1) * tier.saved_seconds <= tier.compile_seconds
    assert tier.call * tier.saved_seconds > tier.compile_seconds


def test_results_of_both_tiers_are_within_the_bound():
    x = values(400_000)
    f, (kernel,) = fg.jit(fg.tanh), fg.jit(fg.tanh).plan(x).kernels
    assert kernel.tier.call > 1
    before = f(x)
    for _ in range(kernel.tier.call):
        after = f(x)
    assert direct_calls(f) == 1
    assert ulps_apart(before, np.tanh(x)) <= OPS["tanh"].ulp
    assert ulps_apart(after, np.tanh(x)) <= OPS["tanh"].ulp


def test_exact_keeps_to_numpys_bits_across_tiers(assert_same):
    """A function has no compiled form then; arithmetic has, with the same bits."""
    x = values(400_000)
    assert fg.jit(fg.tanh, exact=True).plan(x).kernels[0].tier is None
    f = fg.jit(lambda x: (x * 3 + x) / (x * x + 1) - x, exact=True)
    (kernel,) = f.plan(x).kernels
    for _ in range(kernel.tier.call + 2):
        assert_same(f(x), (x * 3 + x) / (x * x + 1) - x)
    assert direct_calls(f) >= 1


def test_small_kernels_are_compiled_sooner_where_all_others_are():
    """Two kernels of one element kept a whole program from one call."""
    x = fg.asarray(np.zeros(4_000_000, np.float32))

    def normalise(x):
        return (x - x.mean()) / (x.std() + 1e-6)

    def smallest(plan):
        return min((k.tier for k in plan.kernels if k.tier), key=lambda tier: tier.saved_seconds)

    alone = fg.plan(normalise(x))
    assert all(kernel.tier.saved_seconds > BETWEEN for kernel in alone.kernels)
    m = fg.asarray(np.zeros((600, 600), np.int32))
    beside = fg.plan(normalise(x), m @ m)  # which has no compiled form
    assert smallest(beside).saved_seconds < BETWEEN
    assert smallest(beside).call > smallest(alone).call > 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_earliest_call_that_may_compile_is_a_lower_bound(function, shape):
    """It is known before the compiled form is planned."""
    for kernel in fg.jit(function).plan(values(*shape)).kernels:
        if kernel.prospect is not None:
            tier = kernel.prospect.find()
            assert tier is None or 2 <= kernel.prospect.earliest <= tier.call


def planned(plan):
    """How many compiled forms of kernels are planned."""
    return sum(k.prospect.find.cache_info().currsize for k in plan.kernels if k.prospect)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_compiled_form_is_planned_when_it_may_be_due(function):
    """Planning them took a quarter of a first call."""
    x = values(400, 300)
    f = fg.jit(function)
    plan = f.plan(x)
    first = min(k.prospect.earliest for k in plan.kernels if k.prospect)
    assert first > 2
    for _ in range(first - 1):
        f(x)
        assert planned(plan) == 0
    f(x)
    assert planned(plan) > 0


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_reading_a_plan_changes_nothing(function):
    x, read = values(400, 300), values(400, 300)
    unread, text = fg.jit(function), str(fg.jit(function).plan(read))
    for _ in range(3):
        unread(x)
    assert planned(unread.plan(x)) == 0
    assert str(unread.plan(x)) == text


def program_of(x):
    y = fg.asarray(x) * 3 + 1
    plan = y.plan()
    (kernel,) = plan.kernels
    return Program(plan.plan), kernel


def test_calls_that_several_threads_count_do_not_pass_the_tier_by():
    """Two that counted at once could both read the number after that of the tier: never compiled."""
    x = values(400_000)
    program, kernel = program_of(x)
    (runner,) = program._tiers
    runner.calls = kernel.tier.call  # the next to look reads one more
    program.run([x])
    assert runner.kernel is kernel.tier.kernel
    assert program.tiers_reached == 1
    np.testing.assert_array_equal(program.run([x])[0], x * 3 + 1)


def test_threads_reach_a_tier_together():
    x = values(400_000)
    program, kernel = program_of(x)
    wrong = []

    def work():
        for _ in range(kernel.tier.call):
            (found,) = program.run([x])
            if not np.array_equal(found, x * 3 + 1):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert program.tiers_reached == 1
    (runner,) = program._tiers
    assert runner.due == sys.maxsize


def test_a_kernel_whose_compiled_form_saves_nothing_asks_once():
    x = values(3, 4)
    mean = fg.asarray(x).mean(axis=0)
    program = Program(mean.plan().plan)
    runner = next(r for r in program._tiers if r.prospect.find() is None)
    for _ in range(runner.prospect.earliest):
        program.run([x])
    assert runner.due == sys.maxsize
    assert not runner.kernel.compiled
    np.testing.assert_array_equal(program.run([x])[0], x.mean(axis=0))
