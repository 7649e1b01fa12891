"""Measuring this machine (placeholder: defaults)."""

from __future__ import annotations

from functools import lru_cache

from fusegraph.machine import Machine, default_machine, with_caches


@lru_cache(maxsize=1)
def current_machine() -> Machine:
    """The profile of this machine."""
    return with_caches(default_machine())
