"""Pictures, drawn with matplotlib: the one module that needs it (extra ``viz``).

In: records. Out: image files. Nothing is decided or counted here.
"""

from __future__ import annotations

from typing import Any


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
    figure = new_figure()
    axes = figure.add_subplot(xscale="log", yscale="log")
    groups = {name: [p for p in record[name] if p["intensity"]] for name in ("before", "after")}
    seen = [p["intensity"] for group in groups.values() for p in group] or [1.0]
    peak, roofs = record["peak"], record["roofs"]
    ridge = peak / min(roof["bandwidth"] for roof in roofs)
    ends = (min(seen) / 4, max([*seen, ridge]) * 4)
    for roof in roofs:
        corner = peak / roof["bandwidth"]
        axes.plot(
            [ends[0], corner, ends[1]],
            [ends[0] * roof["bandwidth"], peak, peak],
            label=roof["level"],
        )
    axes.axhline(peak, linestyle=":", color="black", label="peak")
    for (name, group), marker in zip(groups.items(), "xo", strict=True):
        speeds = [p["measured"] or p["predicted"] for p in group]
        axes.scatter([p["intensity"] for p in group], speeds, marker=marker, label=f"{name} fusion")
    axes.set_xlabel("flops per byte")
    axes.set_ylabel("flops per second")
    axes.set_title(record["machine"])
    axes.legend()
    figure.savefig(path)


def new_figure(size: tuple[float, float] | None = None) -> Any:
    """A figure that no window shows; ``size`` in inches."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ImportError(
            "plot: needs matplotlib; install it with: pip install 'fusegraph[viz]'"
        ) from error
    return Figure(layout="constrained", figsize=size)
