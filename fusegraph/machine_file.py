"""The files of profiles: the one shipped with the package, and the one that was measured here.

In: a path, or nothing. Out: a ``Machine``; or the file, written.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from functools import lru_cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from fusegraph.machine import Machine
from fusegraph.processor import available_cores, cpu_name

FORMAT = 9  # of the cache file; another number means: measure again


@lru_cache(maxsize=1)
def default_machine() -> Machine:
    """The profile shipped with the package, for a machine that was not measured."""
    text = resources.files("fusegraph").joinpath("machine.json").read_text()
    return Machine(**json.loads(text))


def cache_file() -> Path:
    """Where the measured profile of this machine is kept."""
    return user_cache_path("fusegraph") / "machine.json"


def load(path: Path) -> Machine | None:
    """The profile in ``path``; None where it is missing, damaged, or of another machine."""
    try:
        stored = json.loads(path.read_text())
        if stored["format"] != FORMAT or stored["fingerprint"] != fingerprint():
            return None
        return Machine(**stored["machine"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def save(machine: Machine, path: Path) -> None:
    """Write a profile; a reader never sees half a file. A cache that cannot be written is no error."""
    text = json.dumps(
        {"format": FORMAT, "fingerprint": fingerprint(), "machine": machine.to_dict()}, indent=1
    )
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def fingerprint() -> str:
    """What a measurement belongs to: processor, core count and the versions that run kernels."""
    versions = (np.__version__, *(_version_of(name) for name in ("numexpr", "llvmlite")))
    return "/".join((platform.machine(), cpu_name(), str(available_cores()), *versions))


def _version_of(name: str) -> str:
    """The version of a distribution; nothing where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
