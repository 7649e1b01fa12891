"""Results as text: a table of rows, one of every way, the summary, what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate

from fusegraph.bench.results import AUTO, Choice, Requirement, Results, RowResult, Way, summarise
from fusegraph.bench.suite import Row
from fusegraph.report.units import bytes_text, plural, seconds_text

COLUMNS = (
    "row", "fusegraph", "best peer", "", "ratio", "NumPy", "copy", "first call", "NumPy's",
    "predicted", "error", "beside", "engine",
)  # fmt: skip
BUSY = 0.5  # running processes beside the bench that make its times doubtful
LEFT = (0, 3, 12)  # columns of text


def suite_table(rows: Sequence[Row], tablefmt: str = "plain") -> str:
    """What the suite holds."""
    cells = [
        (row.name, row.group, row.dtype, ", ".join(_shape(shape) for shape in row.shapes))
        for row in rows
    ]
    return tabulate(cells, ("row", "group", "dtype", "arrays"), tablefmt, disable_numparse=True)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def results_table(rows: Sequence[RowResult], tablefmt: str = "plain") -> str:
    """Medians, ratios, first calls and predictions, a line a row."""
    return tabulate(
        [_cells(row) for row in rows],
        COLUMNS,
        tablefmt,
        colalign=[_align(at) for at in range(len(COLUMNS))] if rows else None,
        disable_numparse=True,
    )


def _align(column: int) -> str:
    return "left" if column in LEFT else "right"


def _cells(row: RowResult) -> tuple[str, ...]:
    auto, best = row.way(AUTO), row.peers[0] if row.peers else Way("")
    return (
        row.name,
        auto.reason or _time(auto.seconds),
        _time(best.seconds),
        best.name,
        _times(row.against_best),
        _times(row.against_numpy),
        _times(row.against_copy),
        _time(auto.first),
        _time(row.way("numpy").first),
        _time(row.predicted),
        _share(row.prediction_error),
        _share(row.error_beside),
        "; ".join(map(choice_text, row.kernels)),
    )


def choice_text(choice: Choice) -> str:
    """What runs a kernel, and from which call on."""
    if choice.tier is None:
        return f"{choice.engine} {choice.schedule}"
    when = f"from call {choice.tier}" if choice.reached else f"not yet, from call {choice.tier}"
    return f"{choice.engine} {choice.schedule} {when}"


def ways_table(
    rows: Sequence[RowResult], number: Callable[[Way], float | None], tablefmt: str = "plain"
) -> str:
    """One number of every way (``lambda way: way.seconds``), a line a row."""
    names = list(dict.fromkeys(w.name for row in rows for w in row.ways if number(w) is not None))
    cells = [(row.name, *[_time(number(row.way(name))) for name in names]) for row in rows]
    align = ["left", *["right"] * len(names)] if rows else None
    return tabulate(cells, ("row", *names), tablefmt, colalign=align, disable_numparse=True)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else seconds_text(seconds)


def _share(error: float | None) -> str:
    return "" if error is None else f"{error:+.0%}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def requirement_text(one: Requirement) -> str:
    """A requirement and how far it holds, in a line; then the rows that do not, a line each."""
    if one.value is None:
        return f"{one.text}: no row tells"
    verdict = "holds" if one.holds else "does not hold"
    bound = f"required: {_number(one, one.required)}; {verdict}"
    lines = [f"{one.text}: {_number(one, one.value)} ({bound})"]
    return "\n".join([*lines, *[f"    {row}" for row in one.rows]])


def _number(one: Requirement, value: float) -> str:
    if one.text.startswith("share"):
        return f"{value:.0%}"
    return f"{value:.2f}x" if one.text.startswith("geometric") else f"{value:.0f}"


def summary_text(rows: Sequence[RowResult]) -> str:
    """Every requirement."""
    return "\n".join(map(requirement_text, summarise(rows)))


def facts_text(results: Results) -> str:
    """Machine, versions, what is missing."""
    facts = results.facts
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    lines = [
        f"machine   {facts['processor']}, {plural(facts['cores'], 'core')}, "
        f"L2 {bytes_text(facts['l2_bytes'])}, L3 {bytes_text(facts['l3_bytes'])}; {facts['system']}",
        f"versions  Python {facts['python']}, {versions}",
        f"run       {facts['date']}, {plural(facts['repeats'], 'round')}{_took(facts)}",
    ]
    lines += [f"missing   {name}: {reason}" for name, reason in results.missing.items()]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """Whole minutes, or whole seconds of less than one."""
    return (
        plural(round(seconds / 60), "minute") if seconds >= 60 else plural(round(seconds), "second")
    )


def _took(facts: dict[str, Any]) -> str:
    """How long it took, and a warning where others took part of the machine."""
    text = f" in {_duration(facts['seconds'])}" if "seconds" in facts else ""
    if facts.get("load") is not None and facts["load"] > BUSY:
        text += f"; the machine was busy when it began (load {facts['load']})"
    return text


def reasons_text(rows: Sequence[RowResult]) -> str:
    """Why a way has no time, and in which rows."""
    failed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for way in row.ways:
            if way.reason:
                failed.setdefault((way.name, way.reason), []).append(row.name)
    return "\n".join(f"{way}: {why} ({', '.join(of)})" for (way, why), of in failed.items())


def results_text(results: Results) -> str:
    """Everything that a run is printed as."""
    rows = results.rows
    failed = reasons_text(rows)
    parts = [
        facts_text(results),
        results_table(rows),
        "medians of all ways\n" + ways_table(rows, lambda way: way.seconds),
        "first calls of all ways\n" + ways_table(rows, lambda way: way.first),
        *([f"without a time\n{failed}"] if failed else []),
        summary_text(rows),
    ]
    return "\n\n".join(parts)


def progress_text(at: int, count: int, row: RowResult) -> str:
    """A line while a run goes on."""
    auto = row.way(AUTO)
    if auto.seconds is None:
        return f"[{at}/{count}] {row.name}: {auto.reason}"
    text = f"[{at}/{count}] {row.name}: {seconds_text(auto.seconds)}"
    if not row.peers:
        return text
    best: Any = row.peers[0]
    return f"{text}, {best.name} {seconds_text(best.seconds)} ({row.against_best:.2f}x)"
