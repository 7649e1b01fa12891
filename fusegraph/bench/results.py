"""Results of a run as records: medians, first calls, ratios, and what they say about the whole suite.

In: what the workers measured. Out: ``Results``, which goes to JSON and back, and its ``Summary``. A time
is measured unless its name says predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

AUTO, COPY, NUMPY = "fusegraph", "copy", "numpy"

# What is required of two cores.
FASTER = 1.5  # geometric mean of the best peer's time over fusegraph's
NEVER_BELOW = 0.9  # of the same in any row
NEAR_COPY = 1.3  # times the copy bound
FIRST_TIMES, FIRST_MORE = 1.5, 2e-3  # first call: times NumPy's, and seconds more
NEAR_BEST = 1.1  # times the best engine
NEAR_BEST_SHARE = 0.9  # of the rows
PREDICTED_WITHIN = 0.3  # of the measured time
PREDICTED_SHARE = 0.8  # of the rows
PREDICTED_ABOVE = 100_000  # elements


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a row.

    Attributes
    ----------
    name : str
    seconds, least : float or None
        Median and least of the warm calls; None where there is no time, for the given ``reason``.
    first : float or None
        Seconds of building, planning or compiling, and running, once.
    error : float or None
        Largest distance from NumPy's result, relative to the element's size plus the mean size.
    calls : int
        How many were timed.
    reason : str
    """

    name: str
    seconds: float | None = None
    least: float | None = None
    first: float | None = None
    error: float | None = None
    calls: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What fusegraph chose for a kernel, once it had settled.

    ``tier`` is the call at which another engine takes over, or None; ``reached``: did that happen here?
    """

    engine: str
    schedule: str
    threads: int
    bound: str
    predicted: float
    tier: int | None
    reached: bool


@dataclass(frozen=True, slots=True)
class RowResult:
    """Everything about one row.

    Attributes
    ----------
    name, group, dtype : str
    elements : int
        Of the largest array that goes in or comes out.
    near_copy : bool
        Is it required to be near the copy bound?
    bytes_moved : int
        Modelled, by the plan that runs.
    kernels : tuple of Choice
    ways : tuple of Way
    predicted_beside : float or None
        Seconds predicted with the bandwidths of L3 and memory that were measured beside the row.
    """

    name: str
    group: str
    dtype: str
    elements: int
    near_copy: bool
    bytes_moved: int
    kernels: tuple[Choice, ...]
    ways: tuple[Way, ...]
    predicted_beside: float | None = None

    def way(self, name: str) -> Way:
        """The way of that name; one without a time where it did not run."""
        return next((w for w in self.ways if w.name == name), Way(name, reason="not run"))

    def seconds(self, name: str) -> float | None:
        return self.way(name).seconds

    @property
    def measured(self) -> float | None:
        """Median seconds of fusegraph."""
        return self.seconds(AUTO)

    @property
    def predicted(self) -> float | None:
        """Predicted seconds of what fusegraph settled on."""
        return sum(k.predicted for k in self.kernels) if self.kernels else None

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured, minus one."""
        return _error(self.predicted, self.measured)

    @property
    def error_beside(self) -> float | None:
        """The same of what was predicted with bandwidths measured beside the row."""
        return _error(self.predicted_beside, self.measured)

    @property
    def peers(self) -> tuple[Way, ...]:
        """Peers that have a time, fastest first."""
        found = [w for w in self.ways if is_peer(w.name) and w.seconds is not None]
        return tuple(sorted(found, key=lambda w: w.seconds or math.inf))

    @property
    def engines(self) -> tuple[Way, ...]:
        """Engines of fusegraph by name, fastest first."""
        found = [w for w in self.ways if w.name.startswith(f"{AUTO}.") and w.seconds is not None]
        return tuple(sorted(found, key=lambda w: w.seconds or math.inf))

    @property
    def against_best(self) -> float | None:
        """The best peer's seconds over fusegraph's: above 1, fusegraph is faster."""
        return _ratio(self.peers[0].seconds if self.peers else None, self.measured)

    @property
    def against_numpy(self) -> float | None:
        """NumPy's seconds over fusegraph's."""
        return _ratio(self.seconds(NUMPY), self.measured)

    @property
    def against_copy(self) -> float | None:
        """Seconds of fusegraph over those of copying the row's bytes."""
        return _ratio(self.measured, self.seconds(COPY))

    @property
    def against_engines(self) -> float | None:
        """Seconds of ``auto`` over those of the best engine by name."""
        return _ratio(self.measured, self.engines[0].seconds if self.engines else None)

    @property
    def first_allowed(self) -> float | None:
        """Seconds that the first call may take."""
        first = self.way(NUMPY).first
        return None if first is None else FIRST_TIMES * first + FIRST_MORE

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the ratios."""
        return {
            **asdict(self),
            "predicted": self.predicted,
            "prediction_error": self.prediction_error,
            "error_beside": self.error_beside,
            "best_peer": self.peers[0].name if self.peers else None,
            "against_best": self.against_best,
            "against_numpy": self.against_numpy,
            "against_copy": self.against_copy,
            "against_engines": self.against_engines,
            "first_allowed": self.first_allowed,
        }


def is_peer(name: str) -> bool:
    """Is this way one of another library?"""
    return name != COPY and name.partition(".")[0] != AUTO


def _error(predicted: float | None, measured: float | None) -> float | None:
    return None if measured is None or predicted is None else predicted / measured - 1


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


@dataclass(frozen=True, slots=True)
class Results:
    """A run.

    Attributes
    ----------
    facts : dict
        Of the machine and the run: processor, cores, caches, system, Python, date, repeats.
    versions : dict
        Of every library that ran.
    missing : dict
        Libraries that did not run, and why.
    rows : tuple of RowResult
    """

    facts: dict[str, Any]
    versions: dict[str, str]
    missing: dict[str, str]
    rows: tuple[RowResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with ratios and summary."""
        return {
            "facts": self.facts,
            "versions": self.versions,
            "missing": self.missing,
            "summary": [asdict(one) for one in summarise(self.rows)],
            "rows": [row.to_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Results:
        """What :meth:`to_dict` gave; ratios and summary are computed again."""
        return cls(data["facts"], data["versions"], data["missing"], tuple(map(_row, data["rows"])))


def _row(data: dict[str, Any]) -> RowResult:
    plain = ("name", "group", "dtype", "elements", "near_copy", "bytes_moved")
    return RowResult(
        **{name: data[name] for name in plain},
        kernels=tuple(Choice(**kernel) for kernel in data["kernels"]),
        ways=tuple(Way(**way) for way in data["ways"]),
        predicted_beside=data.get("predicted_beside"),
    )  # fmt: skip


# --- the whole suite ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that is required, and how far it holds.

    Attributes
    ----------
    text : str
    value : float or None
        A mean, a share or a count of rows; None where no row tells.
    required : float
    holds : bool or None
        None where no row tells.
    rows : tuple of str
        Those that do not hold, each with its number.
    """

    text: str
    value: float | None
    required: float
    holds: bool | None
    rows: tuple[str, ...] = ()


def summarise(rows: Sequence[RowResult]) -> tuple[Requirement, ...]:
    """What is required, over ``rows``."""
    return (
        _all_ran(rows), _mean_speed(rows), _never_below(rows), _near_copy(rows), _first_calls(rows),
        _near_best_engine(rows), _never_below_numpy(rows),
        _predictions(rows, "prediction_error", ""),
        _predictions(rows, "error_beside", ", with bandwidths as measured beside each"),
    )  # fmt: skip


def _named(rows: Sequence[RowResult], name: str) -> list[tuple[RowResult, float]]:
    """Rows that have a number of that name, with it."""
    found = [(row, getattr(row, name)) for row in rows]
    return [(row, value) for row, value in found if value is not None]


def _all_ran(rows: Sequence[RowResult]) -> Requirement:
    broken = [f"{row.name} {row.way(AUTO).reason}" for row in rows if row.measured is None]
    return _none_of(
        "rows without a time of fusegraph, which no other line counts", broken, bool(rows)
    )


def _mean_speed(rows: Sequence[RowResult]) -> Requirement:
    ratios = [value for _, value in _named(rows, "against_best")]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None
    return Requirement(
        "geometric mean of best peer's time over fusegraph's",
        mean, FASTER, None if mean is None else mean >= FASTER,
    )  # fmt: skip


def _none_of(text: str, broken: Sequence[str], told: bool) -> Requirement:
    """A requirement that no row may break."""
    if not told:
        return Requirement(text, None, 0.0, None)
    return Requirement(text, float(len(broken)), 0.0, not broken, tuple(broken))


def _share_of(text: str, total: int, broken: Sequence[str], required: float) -> Requirement:
    """A requirement that a share of the rows must meet."""
    if not total:
        return Requirement(text, None, required, None)
    share = 1 - len(broken) / total
    return Requirement(text, share, required, share >= required, tuple(broken))


def _never_below(rows: Sequence[RowResult]) -> Requirement:
    found = _named(rows, "against_best")
    broken = [
        f"{row.name} {value:.2f} ({row.peers[0].name})" for row, value in found if value < NEVER_BELOW
    ]  # fmt: skip
    return _none_of(f"rows below {NEVER_BELOW} of the best peer's speed", broken, bool(found))


def _near_copy(rows: Sequence[RowResult]) -> Requirement:
    found = _named([row for row in rows if row.near_copy], "against_copy")
    broken = [f"{row.name} {value:.2f}" for row, value in found if value > NEAR_COPY]
    return _none_of(f"required rows beyond {NEAR_COPY} of the copy bound", broken, bool(found))


def _first_calls(rows: Sequence[RowResult]) -> Requirement:
    found = [(row, row.way(AUTO).first, allowed) for row, allowed in _named(rows, "first_allowed")]
    broken = [
        f"{row.name} {first * 1e3:.1f} ms (allowed {allowed * 1e3:.1f})"
        for row, first, allowed in found
        if first is not None and first > allowed
    ]
    text = f"rows whose first call is beyond {FIRST_TIMES} of NumPy's and {FIRST_MORE * 1e3:.0f} ms"
    return _none_of(text, broken, bool(found))


def _near_best_engine(rows: Sequence[RowResult]) -> Requirement:
    found = _named(rows, "against_engines")
    broken = [
        f"{r.name} {value:.2f} ({r.engines[0].name})" for r, value in found if value > NEAR_BEST
    ]
    text = "share of rows where auto is within 10 % of the best engine"
    return _share_of(text, len(found), broken, NEAR_BEST_SHARE)


def _never_below_numpy(rows: Sequence[RowResult]) -> Requirement:
    found = _named(rows, "against_numpy")
    broken = [f"{row.name} {value:.2f}" for row, value in found if value < 1]
    return _none_of("rows slower than NumPy", broken, bool(found))


def _predictions(rows: Sequence[RowResult], name: str, how: str) -> Requirement:
    found = _named([row for row in rows if row.elements > PREDICTED_ABOVE], name)
    broken = [f"{row.name} {v:+.0%}" for row, v in found if abs(v) > PREDICTED_WITHIN]
    text = (
        f"share of rows above {PREDICTED_ABOVE:,} elements predicted within {PREDICTED_WITHIN:.0%}"
        f"{how}"
    )
    return _share_of(text, len(found), broken, PREDICTED_SHARE)
