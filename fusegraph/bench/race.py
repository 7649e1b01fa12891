"""The race: every library in a process of its own; they take turns.

In: rows, libraries, a number of rounds. Out: ``Results``. In each round every way gets one batch of
calls, in an order that shifts from round to round, so that what disturbs one disturbs all. Before each
batch there is a rest, so that the threads of who ran before are asleep.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

from fusegraph.bench.results import AUTO, Choice, Results, RowResult, Way
from fusegraph.bench.runners import RUNNERS
from fusegraph.bench.suite import Row
from fusegraph.calibrate import current_machine
from fusegraph.processor import cpu_name

PATIENCE = 300  # seconds for an answer; torch compiles a function in 2 to 20

Answer = dict[str, Any]


class LostError(Exception):
    """The process of a library ended, or does not answer; the message says which."""


class Process:
    """A worker, and the conversation with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fusegraph.bench.worker", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True,
        )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.hello = self._answer()
        except LostError:
            self.close()
            raise

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, **request: Any) -> Answer:
        """Send a request and wait for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise LostError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> Answer:
        line = self._line()
        if not line:
            raise LostError(self._last_words())
        answer: Answer = json.loads(line)
        return answer

    def _line(self) -> str:
        """The next line; second by second, so that a suspended machine is not taken for a lost one."""
        for _ in range(PATIENCE):
            with suppress(queue.Empty):
                return self._answers.get(timeout=1)
        raise LostError(f"no answer in {PATIENCE} s")

    def _last_words(self) -> str:
        """How the process ended: its code and the last line that it wrote."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process ended with {self._process.returncode}: {said}"[:200]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self.complaints):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Race:
    """Runs rows on several libraries."""

    def __init__(self, names: Sequence[str], repeats: int) -> None:
        self.repeats = repeats
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.ways: dict[str, list[str]] = {}  # by library
        self._processes: dict[str, Process] = {}
        for name in names:
            package = RUNNERS[name].packages[0]
            if importlib.util.find_spec(package) is None:
                self.missing[name] = "not installed"
            else:
                self._begin(name)

    def _begin(self, name: str) -> None:
        try:
            process = Process(name)
        except LostError as lost:
            self.missing[name] = str(lost)
            return
        self._processes[name] = process
        self.versions.update(process.hello["versions"])
        self.ways[name] = process.hello["ways"]

    def close(self) -> None:
        """End every process."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def run(self, row: Row) -> RowResult:
        """First calls, then rounds of batches."""
        answers: dict[str, Answer] = {}
        owner: dict[str, str] = {}
        for name in list(self._processes):
            for way, answer in self._started(name, row).items():
                answers[way], owner[way] = answer, name
        taken: dict[str, list[float]] = {way: [] for way, a in answers.items() if "reason" not in a}
        order = list(taken)
        streams: list[dict[str, float]] = []
        for turn in range(self.repeats):
            streams += self._asked(answers, do="surroundings").values()
            shift = turn % max(1, len(order))
            for way in order[shift:] + order[:shift]:
                self._time(way, owner[way], answers, taken)
        beside = self._predicted(answers, streams)
        for name in list(self._processes):
            try:
                self._processes[name].ask(do="end")
            except LostError as lost:
                self._lose(name, str(lost))
        self._revive()
        return result_of(row, answers, taken, beside)

    def _started(self, name: str, row: Row) -> dict[str, Answer]:
        """Each way's first call in one library."""
        try:
            return self._processes[name].ask(do="start", row=row.name)
        except LostError as lost:
            return self._lose(name, str(lost))

    def _time(
        self, way: str, name: str, answers: dict[str, Answer], taken: dict[str, list[float]]
    ) -> None:
        """A batch of one way."""
        if name not in self._processes:
            return
        try:
            taken[way] += self._processes[name].ask(do="time", way=way)["seconds"]
        except LostError as lost:
            answers.update(self._lose(name, str(lost)))

    def _asked(self, answers: dict[str, Answer], **request: Any) -> Answer:
        """What fusegraph answers beside its times, which stay; nothing where it does not run."""
        if AUTO not in self._processes or "reason" in answers[AUTO]:
            return {}
        try:
            return self._processes[AUTO].ask(**request)
        except LostError as lost:
            self._lose(AUTO, str(lost))
            return {}

    def _predicted(
        self, answers: dict[str, Answer], streams: Sequence[dict[str, float]]
    ) -> float | None:
        """What fusegraph predicts with the medians of ``streams``."""
        if not streams:
            return None
        medians = {key: statistics.median(one[key] for one in streams) for key in streams[0]}
        return self._asked(answers, do="predict", streams=medians).get("predicted")

    def _lose(self, name: str, reason: str) -> dict[str, Answer]:
        """End a library's process; its ways have no result in this row."""
        self._processes.pop(name).close()
        return {way: {"reason": reason} for way in self.ways[name]}

    def _revive(self) -> None:
        """Start again what was lost, for the next row."""
        for name in self.ways:
            if name not in self._processes and name not in self.missing:
                self._begin(name)


def result_of(
    row: Row,
    answers: dict[str, Answer],
    taken: dict[str, list[float]],
    predicted_beside: float | None = None,
) -> RowResult:
    """The record of a row."""
    ways = []
    facts: Answer = {}
    for name, answer in answers.items():
        times = taken.get(name, []) if not answer.get("reason") else []
        ways.append(
            Way(
                name=name,
                seconds=statistics.median(times) if times else None,
                least=min(times, default=None),
                first=answer.get("first"),
                error=answer.get("error"),
                calls=len(times),
                reason=answer.get("reason", ""),
            )
        )
        if name == AUTO:
            facts = answer.get("facts") or {}
    return RowResult(
        name=row.name,
        group=row.group,
        dtype=row.dtype,
        elements=facts.get("elements", row.elements),
        near_copy=row.near_copy,
        bytes_moved=facts.get("bytes_moved", 0),
        kernels=tuple(Choice(**kernel) for kernel in facts.get("kernels", ())),
        ways=tuple(ways),
        predicted_beside=predicted_beside,
    )


def run_suite(
    rows: Sequence[Row],
    names: Sequence[str],
    repeats: int,
    told: Callable[[int, RowResult], None],
) -> Results:
    """Run ``rows`` on the libraries of these names.

    Parameters
    ----------
    rows : sequence of Row
    names : sequence of str
        Of ``RUNNERS``.
    repeats : int
        Rounds.
    told : callable
        Given each row's place and result when it is there.
    """
    facts, start = run_facts(repeats), time.perf_counter()
    race = Race(names, repeats)
    results = []
    try:
        for at, row in enumerate(rows, 1):
            results.append(race.run(row))
            told(at, results[-1])
    finally:
        race.close()
    facts["seconds"] = round(time.perf_counter() - start)
    return Results(facts, race.versions, race.missing, tuple(results))


def run_facts(repeats: int) -> dict[str, Any]:
    """Where and how a run is made, and what else the machine does when it begins."""
    machine = current_machine()
    return {
        "processor": cpu_name(),
        "cores": machine.cores,
        "l2_bytes": machine.l2_bytes,
        "l3_bytes": machine.l3_bytes,
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
