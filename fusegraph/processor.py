"""The processor: its name, its cores and its caches.

In: what the system says. Out: names and numbers; nothing is timed here.
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_bytes(otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """Bytes of L1, L2 and on, as the system reports them; ``otherwise`` where it does not."""
    sizes = {}
    root = Path("/sys/devices/system/cpu/cpu0/cache")
    for index in root.glob("index*"):
        try:
            level = int((index / "level").read_text())
            kind = (index / "type").read_text().strip()
            size = _bytes_in((index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and size > 0:  # some virtual machines say 0
            sizes[level] = size
    return tuple(sizes.get(level, size) for level, size in enumerate(otherwise, 1))


def _bytes_in(text: str) -> int:
    """Bytes in a size as the system writes it: ``32K``; a ValueError where it is written otherwise."""
    unit = {"K": 1024, "M": 1024**2}.get(text[-1:], 1)
    return int(text if unit == 1 else text[:-1]) * unit
