"""What every test shares: the engine under test, checks switched on, exact comparison.

``pytest --engine numexpr`` runs the whole suite on one engine. ``verify=True`` is always on, and plans
are made for the shipped profile, so that what fuses and when it is compiled is the same everywhere.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager

import hypothesis
import numpy as np
import pytest

import fusegraph as fg
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.machine_file import default_machine

ENGINES = ("auto", *ELEMENTWISE_ENGINES)

hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser):
    parser.addoption(
        "--engine", default="auto", choices=ENGINES, help="run every test on this engine"
    )


def _is_simulated(item):
    return item.path.name == "test_cache_simulation.py"


def pytest_collection_modifyitems(items):
    """The cache simulation last: it takes minutes, and runs beside the other tests."""
    items.sort(key=_is_simulated)


def pytest_collection_finish():
    """Collections need not walk 15,000 tests each time: tests that collect took 0.2 s for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def simulation(request, tmp_path_factory):
    """The cache simulation, begun before the first test; None where no test asks for it."""
    asking = next((item for item in request.session.items if _is_simulated(item)), None)
    begun = asking and asking.module.begin(tmp_path_factory.mktemp("simulated"))
    yield begun
    if begun is not None:
        begun.process.kill()  # where a run ends early
        begun.process.wait()


@pytest.fixture(autouse=True)
def suite_options(request):
    """Those of the suite, and those that the mark ``options`` of a test or its file adds."""
    changes = {"engine": request.config.getoption("--engine")}
    if mark := request.node.get_closest_marker("options"):
        changes |= mark.kwargs
    with fg.options(verify=True, machine=default_machine(), **changes):
        yield


@pytest.fixture(params=ENGINES)
def engine(request):
    """Each engine name in turn, set for the test."""
    with fg.options(engine=request.param):
        yield request.param


def _assert_same(actual, expected, note="", zero_signs=True):
    expected = np.asarray(expected)
    assert type(actual) is np.ndarray, note
    np.testing.assert_array_equal(actual, expected, err_msg=note, strict=True)
    if zero_signs and expected.dtype.kind in "fc":
        for a, b in zip(_parts(actual), _parts(expected), strict=True):
            number = ~np.isnan(b)
            np.testing.assert_array_equal(
                np.signbit(a)[number], np.signbit(b)[number], err_msg=f"signs: {note}"
            )


def _parts(x):
    return (x.real, x.imag) if x.dtype.kind == "c" else (x,)


@pytest.fixture(scope="session")
def assert_same():
    """Equal dtype, shape, values, NaN places and signs of zeros."""
    return _assert_same


@pytest.fixture(scope="session")
def assert_close():
    """Equal dtype and shape, and at most ``ulp`` units in the last place apart."""

    def check(actual, expected, ulp, note="", zero_signs=True):
        expected = np.asarray(expected)
        if not ulp or expected.dtype.kind not in "fc":
            _assert_same(actual, expected, note, zero_signs)
            return
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), note
        for a, b in zip(_parts(actual), _parts(expected), strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=note)
            number = ~np.isnan(b)
            try:
                np.testing.assert_array_max_ulp(a[number], b[number], ulp)
            except AssertionError as error:
                raise AssertionError(f"{note}: {error}") from None

    return check


@contextmanager
def _after_instructions(count, act, module):
    """Call ``act`` once, when ``count`` instructions of functions of ``module`` have begun here."""
    left = count

    def trace(frame, event, _argument):
        nonlocal left
        if frame.f_globals.get("__name__") != module.__name__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                act()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one when tracing begins
    sys.settrace(trace)
    try:
        yield lambda: left > 0  # the end was reached before
    finally:
        sys.settrace(before)


@pytest.fixture
def after_instructions():
    """What breaks in between any two instructions of a module."""
    return _after_instructions
