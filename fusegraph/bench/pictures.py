"""One picture of a run, drawn with matplotlib (extra ``viz``)."""

from __future__ import annotations

from pathlib import Path

from fusegraph.bench.results import Results, is_peer
from fusegraph.report.pictures import new_figure


def picture_formats() -> list[str]:
    """Endings of image files that can be drawn.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says how to install it.
    """
    return sorted(new_figure().canvas.get_supported_filetypes())


def draw_results(results: Results, path: Path) -> None:
    """Draw how much faster fusegraph is than each peer, a line a row; above 1 it is faster.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says how to install it.
    """
    figure = new_figure((8.0, 1.0 + 0.28 * max(1, len(results.rows))))
    axes = figure.add_subplot(xscale="log")
    rows = [row for row in results.rows if row.measured]
    ways = dict.fromkeys(way.name for row in rows for way in row.ways)
    names = [name for name in ways if is_peer(name)]
    for at, name in enumerate(names):
        points = [
            (seconds / row.measured, place)
            for place, row in enumerate(rows)
            if (seconds := row.seconds(name)) is not None and row.measured
        ]
        ratios, places = [ratio for ratio, _ in points], [place for _, place in points]
        axes.plot(ratios, places, "o", markersize=4, label=name, color=f"C{at}")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("seconds of the peer over seconds of fusegraph (measured, medians)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)
    figure.savefig(path)
