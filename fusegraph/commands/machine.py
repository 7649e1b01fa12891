"""The command ``fusegraph machine``: the profile that predictions rest on, as tables."""

from __future__ import annotations

import argparse
from typing import Any

from fusegraph.arguments import add_command
from fusegraph.calibrate import current_machine, recalibrate
from fusegraph.machine import Machine
from fusegraph.report.documents import document
from fusegraph.report.tables import table
from fusegraph.report.units import seconds_text


def add_machine(commands: Any) -> None:
    """Register the command."""
    parser = add_command(commands, machine, "Show what the cost model knows of this machine.")
    parser.add_argument("--recalibrate", action="store_true", help="measure it again first")


def machine(args: argparse.Namespace) -> str:
    """The profile of this machine."""
    profile = recalibrate() if args.recalibrate else current_machine()
    return document(profile.to_dict()) if args.json else machine_text(profile)


def machine_text(profile: Machine) -> str:
    """A profile as tables."""
    facts = [
        ("profile", profile.name),
        ("cores", str(profile.cores)),
        ("caches", f"L1 {profile.l1_bytes / 1024:,.0f} KiB, L2 {profile.l2_bytes / 1024:,.0f} KiB, "
         f"L3 {profile.l3_bytes / 1024:,.0f} KiB"),
    ]  # fmt: skip
    facts += [(f"launch {e}", seconds_text(s)) for e, s in profile.launch.items()]
    facts += [(f"step {e}", seconds_text(s)) for e, s in profile.step.items()]
    facts += [
        ("waking", seconds_text(profile.waking)),
        ("handover", seconds_text(profile.handover)),
    ]
    streams = [(*key.split(), f"{speed / 1e9:.1f}") for key, speed in profile.streams.items()]
    products = [
        (dtype, f"{one:.1f}", f"{profile.gigaflops_all[dtype]:.1f}")
        for dtype, one in profile.gigaflops.items()
    ]
    rows = [(*key.rsplit(" ", 2), f"{ns:.3f}") for key, ns in profile.nanoseconds.items()]
    tables = [
        table(facts, (), "ll"),
        table(streams, ("stream", "level", "threads", "GB/s"), "lllr"),
        table(products, ("product", "GFLOP/s of one thread", "of all"), "lrr"),
        table(rows, ("engine", "op", "dtype", "ns an element"), "lllr"),
    ]
    return "\n\n".join(tables)
