"""One library in a process of its own: ``python -m fusegraph.bench.worker NAME``.

In: requests, a JSON object a line, on stdin. Out: an answer, a JSON object a line, on what was stdout;
anything that a library prints goes to stderr.

* ``{"do": "start", "row": name}`` makes the row's arrays, runs every way once, checks the results
  against NumPy and warms up.
* ``{"do": "time", "way": name}`` takes a batch of calls, and rests until the process is quiet.
* ``{"do": "surroundings"}`` measures what the machine shares with whatever else it runs.
* ``{"do": "predict", "streams": {...}}`` predicts the row with such bandwidths.
* ``{"do": "end"}`` drops the row.

A time is that from the call to the result that is ready. Dropping a result is no part of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from fusegraph.bench.code_pages import mapped_code
from fusegraph.bench.results import COPY
from fusegraph.bench.runners import RUNNERS
from fusegraph.bench.runners.base import Call, Runner, UnsupportedError
from fusegraph.bench.suite import WARM_UP, Array, Row, as_list, error_of, find_row
from fusegraph.compare import rest

BATCH = 0.02  # seconds of calls that are timed in one turn
FEWEST, MOST = 2, 400  # calls in one turn: 40 of 8 us were over before the processor was awake
WARMING = 2.0  # seconds at most until what settles late (a tier of fusegraph) is left as it is
CHARACTERS = 200  # of a reason


class Worker:
    """Runs rows of the suite on one library."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.row: Row | None = None
        self.arrays: list[Any] = []
        self.calls: dict[str, Call] = {}
        self.least: dict[str, float] = {}  # seconds of a warm call

    def start(self, row: Row) -> dict[str, Any]:
        """First calls, checks and facts of every way."""
        arrays = row.arrays()
        self.row = row
        try:
            self.arrays = self.runner.own(row, arrays)
        except Exception as error:  # whatever a library raises is what the table shows
            return {way: {"reason": _said(error)} for way in self.runner.ways}
        expected: list[Array] = []
        answers: dict[str, Any] = {}
        for way in self.runner.ways:
            if (
                answers
            ):  # threads of the way before may spin; a program that just made its arrays has none
                rest()
            try:
                answers[way] = self._first(way, row, arrays, expected)
            except Exception as error:
                answers[way] = {"reason": _said(error)}
        rest()
        return answers

    def _first(
        self, way: str, row: Row, arrays: Sequence[Array], expected: list[Array]
    ) -> dict[str, Any]:
        """Build and call ``way``, warm it up, and check what it gives before and after."""
        start = time.perf_counter()
        call = self.runner.build(way, row, self.arrays)
        result = call(*self.arrays)
        first = time.perf_counter() - start
        answer: dict[str, Any] = {}
        if way != COPY:
            answer["first"] = first
            expected[:] = expected or row.results(arrays)
            answer["error"] = self._error(result, expected)
        del result
        calls = 1 + self._warm(way, call)
        if way != COPY:  # it may run something else by now
            answer["error"] = max(answer["error"], self._error(call(*self.arrays), expected))
        if answer.get("error", 0.0) > row.tolerance:
            return answer | {"reason": f"wrong: an error of {answer['error']:.1e}"}
        self.calls[way] = call
        return answer | {"facts": self.runner.facts(way, call, self.arrays, calls)}

    def _error(self, result: Any, expected: Sequence[Array]) -> float:
        return error_of([self.runner.array(r) for r in as_list(result)], expected)

    def _warm(self, way: str, call: Call) -> int:
        """Call until nothing changes any more; note what a call takes. How many calls it were."""
        wanted = self.runner.calls_to_settle(way, call, self.arrays)
        end = time.perf_counter() + WARMING
        done = 0
        while done < max(1, wanted) and time.perf_counter() < end:
            call(*self.arrays)
            done += 1
        taken = [_seconds(call, self.arrays) for _ in range(2)]
        self.least[way] = min(taken)
        return done + len(taken)

    def time(self, way: str) -> dict[str, Any]:
        """Seconds of a batch of calls, after one that wakes threads and fills caches; then a rest.

        Who is timed next, in another process, shall not share a core with threads that spin.
        """
        call = self.calls[way]
        call(*self.arrays)
        count = min(MOST, max(FEWEST, int(BATCH / self.least[way])))
        taken = [_seconds(call, self.arrays) for _ in range(count)]
        rest()
        return {"seconds": taken}

    def surroundings(self) -> dict[str, Any]:
        """Bandwidths as they are now; then a rest."""
        streams = self.runner.surroundings()
        rest()
        return {"streams": streams}

    def predict(self, streams: dict[str, float]) -> dict[str, Any]:
        """What the library predicts of the row with these bandwidths."""
        assert self.row is not None
        return {"predicted": self.runner.predict(self.row, self.arrays, streams)}

    def end(self) -> dict[str, Any]:
        """Drop the row's arrays and functions."""
        self.row, self.arrays, self.calls, self.least = None, [], {}, {}
        self.runner.forget()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one request gives."""
        match request["do"]:
            case "start":
                return self.start(find_row(request["row"]))
            case "time":
                return self.time(request["way"])
            case "surroundings":
                return self.surroundings()
            case "predict":
                return self.predict(request["streams"])
        return self.end()


def _seconds(call: Call, arrays: Sequence[Any]) -> float:
    start = time.perf_counter()
    result = call(*arrays)
    taken = time.perf_counter() - start
    del result
    return taken


def _said(error: Exception) -> str:
    """The first line of an error, with its type where the library raised it."""
    if isinstance(error, UnsupportedError):
        return str(error)
    text = " ".join(str(error).strip().partition("\n")[0].split())
    return f"{type(error).__name__}: {text}"[:CHARACTERS]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def serve(runner: Runner, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are none."""

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    worker = Worker(runner)
    runner.load()
    worker.start(WARM_UP)
    worker.end()
    code = mapped_code()  # held until the process ends
    say({"versions": versions(runner.packages), "ways": list(runner.ways)})
    for line in requests:
        say(worker.answer(json.loads(line)))
    del code


def main(name: str) -> None:
    """Serve on the process's stdin and stdout, where nothing else may then be printed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(RUNNERS[name](), sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1])
