"""What is compared; and rests between timed runs: until no thread runs, and no longer than a bound."""

import sys
import threading
import time

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.compare import GLANCE, rest


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.T], ids=["itself", "a view"])
def test_a_computed_tensor_is_not_compared(view):
    """Its plan runs nothing: a table of it would have no kernels and no bytes."""
    x = fg.asarray(np.ones((3, 2)))
    doubled = x * 2
    doubled.compute()
    with pytest.raises(ValueError, match="nothing to run; build the expression again"):
        fg.compare(view(doubled))
    assert fg.compare(x * 2, repeats=1)["unfused"].kernels == 1


def test_an_array_is_not_compared():
    with pytest.raises(ValueError, match=r"compare: Tensor\(float64\[3\], computed\)"):
        fg.compare(np.ones(3))


def test_a_rest_lasts_until_no_thread_runs():
    """Threads of a BLAS spin after their work; who runs next would share a core with them."""
    end = time.monotonic() + 20 * GLANCE

    def spin():
        while time.monotonic() < end:
            pass

    spinning = threading.Thread(target=spin)
    spinning.start()
    rest()
    assert time.monotonic() >= end
    spinning.join()


def test_a_rest_ends_though_a_thread_never_does(monkeypatch):
    monkeypatch.setattr(sys.modules[rest.__module__], "LONGEST_REST", 20 * GLANCE)
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            pass

    spinning = threading.Thread(target=spin)
    spinning.start()
    begun = time.monotonic()
    rest()
    assert time.monotonic() - begun >= 20 * GLANCE
    stop.set()
    spinning.join()
