"""Rests between timed runs: until no thread of the process runs, and no longer than a bound."""

import sys
import threading
import time

from fusegraph.compare import GLANCE, rest


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
