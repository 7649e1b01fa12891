"""Pictures, drawn with matplotlib: the one module that needs it (extra ``viz``).

In: records. Out: image files, or what is on a pair of axes. Nothing is decided or counted here.
"""

from __future__ import annotations

import textwrap
from itertools import cycle
from typing import Any

FUSION = {"before": ("x", "C4"), "after": ("o", "C5")}  # marker and colour
PEAK_STYLES = ("--", ":", "-.", "-")
TITLE_WIDTH = 80  # characters


def draw_roofline(record: dict[str, Any], path: str) -> None:
    """Draw a roofline to ``path``: both axes logarithmic, in flops per byte and per second.

    Parameters
    ----------
    record : dict
        ``Roofline.to_dict()``.
    path : str
        The image file; its ending says the format.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says how to install it.
    """
    figure = new_figure((8.0, 5.0))
    roofline_on(figure.add_subplot(), record)
    figure.savefig(path)


def roofline_on(axes: Any, record: dict[str, Any]) -> None:
    """Draw a roofline on ``axes``; the title names the kernels that have no flops, so no place."""
    axes.set(xscale="log", yscale="log", xlabel="flops per byte", ylabel="flops per second")
    _draw_ceilings(axes, record)
    _draw_points(axes, record)
    axes.set_title("\n".join([record["machine"], *_without_flops(record)]), fontsize="medium")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")


def _draw_ceilings(axes: Any, record: dict[str, Any]) -> None:
    """A slope for each level of memory up to the highest peak, a flat line for each dtype."""
    peaks, roofs = record["peaks"], record["roofs"]
    seen = [p["intensity"] for name in FUSION for p in record[name] if p["intensity"]] or [1.0]
    highest = max((peak["speed"] for peak in peaks), default=seen[0] * roofs[0]["bandwidth"])
    slowest, widest = (pick(roof["bandwidth"] for roof in roofs) for pick in (min, max))
    left, right = min(*seen, highest / widest) / 4, max(*seen, highest / slowest) * 4
    for roof in roofs:
        corner = highest / roof["bandwidth"]
        axes.plot([left, corner], [left * roof["bandwidth"], highest], label=roof["level"])
    for peak, style in zip(peaks, cycle(PEAK_STYLES), strict=False):
        speed = peak["speed"]
        axes.plot(
            [speed / widest, right], [speed, speed], style, color="black",
            label=f"{peak['label']} peak",
        )  # fmt: skip


def _draw_points(axes: Any, record: dict[str, Any]) -> None:
    """Kernels before and after fusion, measured ones filled and predicted ones not."""
    for name, (marker, colour) in FUSION.items():
        for source in ("measured", "predicted"):
            points = [p for p in record[name] if p["intensity"] and p["source"] == source]
            if points:
                axes.plot(
                    [p["intensity"] for p in points], [p["speed"] for p in points], marker,
                    color=colour, fillstyle="full" if source == "measured" else "none",
                    label=f"{name} fusion, {source}",
                )  # fmt: skip


def _without_flops(record: dict[str, Any]) -> list[str]:
    """Lines of the title: kernels that only move bytes, before and after fusion."""
    groups = [
        f"{', '.join(kernels)} {name} fusion"
        for name, kernels in record["without_flops"].items()
        if kernels
    ]
    return textwrap.wrap("without flops: " + "; ".join(groups), TITLE_WIDTH) if groups else []


def new_figure(size: tuple[float, float] | None = None) -> Any:
    """A figure that no window shows; ``size`` in inches."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ImportError(
            "plot: needs matplotlib; install it with: pip install 'fusegraph[viz]'"
        ) from error
    return Figure(layout="constrained", figsize=size)
