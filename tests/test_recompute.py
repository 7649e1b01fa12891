"""Values made again instead of stored: kernels, bytes, reasons, and the same values."""

import numpy as np
import pytest

import fusegraph as fg
from fusegraph import Reason
from fusegraph.units import verify_units

ROWS, COLUMNS = 6000, 100
X = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)) * 3 + 1


def normalise(x):
    return (x - x.mean()) / (x.std() + 1e-6)


def columns_normalised(x):
    return (x - x.mean(axis=0)) / x.std(axis=0)


def by_hand(x):
    away = (x - x.mean()) * 2
    return away / np.sqrt((away * away).mean())


def read_by_two(x):
    away = x - x.mean()
    return away / away.std(), away * away.max()


MADE = {
    "normalise": (normalise, 1),
    "columns": (columns_normalised, 1),
    "by hand": (by_hand, 2),
    "two readers": (read_by_two, 1),
}


def made_again(plan):
    return [d for d in plan.decisions if d.reason is Reason.RECOMPUTED]


def planned(build, **options):
    results = build(fg.asarray(X))
    return fg.plan(*(results if isinstance(results, tuple) else (results,)), **options)


@pytest.mark.parametrize("engine", ["auto", "numexpr", "llvm"])
@pytest.mark.parametrize(("build", "operations"), MADE.values(), ids=MADE)
def test_it_is_made_again_and_nothing_of_its_size_is_stored_between(build, operations, engine):
    plan = planned(build, engine=engine)
    again = made_again(plan)
    assert again
    for decision in again:
        assert decision.fused
        assert decision.bytes == 0
        assert decision.detail.startswith(f"{operations} operation")
        assert decision.producer not in plan.plan.names
        holders = [k for k in plan.kernels if decision.producer in k.region.nodes]
        assert len(holders) > 1
    results = set(plan.plan.outputs)
    large = [v for k in plan.kernels for v in k.region.outputs if v.nbytes >= X.nbytes]
    assert all(value in results for value in large)
    verify_units(plan.plan.fused.units)


@pytest.mark.parametrize("engine", ["auto", "numexpr", "llvm"])
@pytest.mark.parametrize("build", [build for build, _ in MADE.values()], ids=MADE)
def test_values(build, engine):
    found, expected = planned(build, engine=engine).run(), build(X)
    for a, b in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", [build for build, _ in MADE.values()], ids=MADE)
def test_numpys_bits(build, assert_same):
    found, expected = planned(build, engine="numpy").run(), build(X)
    for a, b in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert_same(a, b)


def test_a_sum_that_keeps_numpys_order_reads_a_stored_value():
    """The squares of the deviation, which are stored; the deviation itself is made again."""
    plan = planned(normalise, engine="numpy")
    assert [d.producer.op.name for d in made_again(plan)] == ["subtract"]
    large = [v.op.name for k in plan.kernels for v in k.region.outputs if v.nbytes >= X.nbytes]
    assert large == ["multiply", "divide"]


def test_bytes_and_text():
    plan = planned(normalise)
    passes = plan.cost.bytes_moved / X.nbytes
    assert passes == pytest.approx(4, abs=0.01)  # three reads of x, one result
    (decision,) = made_again(plan)
    (told,) = plan.to_dict()["recomputed"]
    saved = int(decision.detail.split()[-3].replace(",", ""))
    assert saved == pytest.approx(X.nbytes, abs=64)
    assert told["detail"] == decision.detail
    assert f"made again instead of stored:\n  {told['producer']} for {told['consumer']}" in str(
        plan
    )
    assert told["kernel"]


STORED = {
    "a function": lambda x: (e := np.exp(x)) / e.sum(),
    "a division": lambda x: (d := x / 3.1) - d.sum(),
    "a result": lambda x: ((a := x - x.mean()), a / a.std()),
    "many operations": lambda x: (a := ((x - x.mean()) * 2 + 3) * x + 1) / a.std(),
    "of three arrays": lambda x: (a := x + X[::-1] * X[:, ::-1]) / a.std(),
    "through a view": lambda x: (a := x - x.mean()).T / a.std(),
}


@pytest.mark.parametrize("build", STORED.values(), ids=STORED)
def test_what_is_stored_all_the_same(build):
    plan = planned(build)
    assert not made_again(plan)
    assert all(d.bytes > 0 for d in plan.decisions if not d.fused)
    expected = build(X)
    for a, b in zip(
        plan.run(), expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def third(u):
    v = u * 2
    w = u - v.max()
    return u, (v * w) / (w * w).max()


def of_a_column(x):
    v = x - x[:, :1] * 2
    return v / v.sum(axis=0)


def turned_too(x):
    u = x[:100] + 1
    v = u * 2
    return u, (v + u.T) * v.mean()


INTRICATE = {
    "one made from another": lambda x: third(x + 1),
    "of what a row shares": of_a_column,
    "a view of what it is made from": turned_too,
}


@pytest.mark.parametrize("engine", ["auto", "numpy", "numexpr", "llvm"])
@pytest.mark.parametrize("build", INTRICATE.values(), ids=INTRICATE)
def test_intricate(build, engine):
    """Each of these was wrong or failed: order of nodes, their shapes, views of them."""
    plan, expected = planned(build, engine=engine, verify=True), build(X)
    for a, b in zip(
        plan.run(), expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    for kernel in plan.kernels:
        assert not kernel.blocked or all(
            n.shape == kernel.region.shape for n in kernel.region.nodes
        )


def test_fusion_off_makes_nothing_again():
    assert not made_again(planned(normalise, fuse=False))


def test_an_engine_that_was_asked_for_keeps_what_it_runs():
    """cbrt is left to NumPy, and the product before it is not taken along."""
    plan = planned(lambda x: np.sqrt(np.cbrt(x * 2) + 1), engine="numexpr")
    assert [(k.engine, k.ops) for k in plan.kernels] == [
        ("numexpr", ("multiply",)),
        ("numpy", ("cbrt",)),
        ("numexpr", ("add", "sqrt")),
    ]
    assert not made_again(plan)
