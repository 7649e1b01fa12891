"""The machine: caches, bandwidths and nanoseconds per element, as a record.

In: figures, which ``calibrate`` measures and ``machine_file`` reads. Out: ``Machine``, and what the time
model asks of it.
"""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

CLASS_COST = {  # of an op that was not measured, in costs of an addition of the same dtype
    "move": 1.0, "add": 1.0, "multiply": 1.0, "compare": 1.0, "select": 2.0,
    "divide": 4.0, "sqrt": 4.0, "transcendental": 40.0,
}  # fmt: skip

DType = np.dtype[Any]

REMEDY = "keep a profile's figures, as in dataclasses.replace(fg.default_machine(), cores=4)"

LEVELS = ("L1", "L2", "L3", "memory")
# Bytes of the arrays that no cache holds, whatever a virtual machine says of its L3: where that was
# 480 MiB, two threads copied 41 GB/s in arrays of 96 MiB together, 29 in 192, 29 in 256.
NEVER_CACHED = 192 << 20
SHARED = ("L3", "memory")  # by all cores; the others are each core's own


@lru_cache(maxsize=64)
def _name(dtype: DType) -> str:
    """``dtype.name``, which NumPy puts together anew each time, in 1 us."""
    return dtype.name


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Machine:
    """What the time model knows of a machine.

    ``nanoseconds`` maps ``"engine op dtype"`` to ns per element on one thread with operands in
    cache; ``launch`` maps an engine to seconds per kernel, ``step`` to seconds per op and block.
    ``streams`` maps ``"stream level one"`` and ``"stream level all"`` to bytes per second of one thread
    and of all; ``gigaflops`` and ``gigaflops_all`` map a dtype to GFLOP/s in matrix products. How they
    are measured stands in ``streams``. ``waking`` is what it costs in seconds to let a second thread
    take part, ``handover`` what a call beside another thread costs until the interpreter's lock is back.

    Raises
    ------
    TypeError
        A number or a table is something else.
    ValueError
        A number is not positive and finite, or a table lacks what every plan asks for.
    """

    name: str
    cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    streams: dict[str, float] = field(default_factory=dict)
    launch: dict[str, float] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)
    nanoseconds: dict[str, float] = field(default_factory=dict)
    gigaflops: dict[str, float] = field(default_factory=dict)
    gigaflops_all: dict[str, float] = field(default_factory=dict)
    waking: float = 60e-6
    handover: float = 8e-6
    measured: bool = False  # False: the defaults shipped with the package

    def __post_init__(self) -> None:
        for name in ("cores", "l1_bytes", "l2_bytes", "l3_bytes"):
            advice = f"give a positive integer; {REMEDY}"
            number = positive_integer(f"Machine: {name}", getattr(self, name), advice)
            object.__setattr__(self, name, number)
        for name in ("waking", "handover"):
            _check_number(name, getattr(self, name))
        for name in ("streams", "launch", "step", "nanoseconds", "gigaflops", "gigaflops_all"):
            table = getattr(self, name)
            if not isinstance(table, dict):
                raise TypeError(f"Machine: {name}={table!r}: give a dictionary; {REMEDY}")
            for key, number in table.items():
                _check_number(f"{name}[{key!r}]", number)
        for name, keys in _needed(self).items():
            if missing := [key for key in keys if key not in getattr(self, name)]:
                raise ValueError(
                    f"Machine: {name} has no {', '.join(map(repr, missing))}; {REMEDY}"
                )

    def ns(self, engine: str, op: str, dtype: DType, flop_class: str) -> float:
        """Nanoseconds per element of an op; an op that was not measured goes by its class."""
        name = _name(dtype)
        found = self.nanoseconds.get(f"{engine} {op} {name}")
        if found is not None:
            return found
        add = self.nanoseconds.get(f"{engine} add {name}")
        if add is None:  # ns of an addition scale with the width of the element
            add = self.nanoseconds[f"{engine} add float32"] * dtype.itemsize / 4
        return add * CLASS_COST[flop_class]

    @property
    def block_bytes(self) -> int:
        """Bytes that one block or panel of one thread may touch.

        Three quarters of L2 or, if that is more, an eighth of each core's share of L3, up to 2 MiB:
        between two calls the interpreter's lock changes hands, and L3 is cheaper than that. Layer norm
        of 4096 x 1024 float32 on two threads took 16 ms in panels of 0.4 MB, 8 of 0.8, 4.8 of 3; GELU
        of 4,000,000 15.6 ms in blocks of 0.25 MB, 12.0 of 0.5, 11.0 of 2.
        """
        return max(self.l2_bytes * 3 // 4, min(2 << 20, self.l3_bytes // (8 * self.cores)))

    def level(self, working_set: int, threads: int) -> str:
        """The level that holds ``working_set`` bytes; each core keeps its part of them in its L2."""
        if working_set <= self.l2_bytes * min(threads, self.cores):
            return "L2"
        return "L3" if working_set <= self.kept_bytes else "memory"

    @property
    def kept_bytes(self) -> int:
        """Bytes that a pass finds again in L3 after the one before: five eighths of it.

        Of 32 MiB of L3 ``maximum(x * 2.5 + 1, 0)`` on two threads took 0.22 ms where it moved 24 MB,
        0.46 where 32, 1.01 where 48, 1.59 where 64 and 3.56 where 128. By half of L3 the first two come
        to 0.33 and 0.57, by five eighths to 0.24 and 0.47; all are within 12 % so.
        """
        return self.l3_bytes * 5 // 8

    def outgrown(self, moved: int) -> bool:
        """Is nothing of a kernel's results left in cache, when it has moved so many bytes?

        Then they go to memory past the caches. On two threads ``maximum(x * 2.5 + 1, 0)`` took 0.22 ms
        with ordinary stores and 0.43 past 32 MiB of L3 where it moved 24 MB, 0.46 and 0.58 where 32,
        1.0 and 1.0 where 48, 3.6 and 3.0 where 128.
        """
        return moved > min(self.l3_bytes, NEVER_CACHED)

    def bandwidth(self, working_set: int, threads: int) -> tuple[str, float]:
        """The level that holds ``working_set`` bytes, and its bytes per second for a copy."""
        level = self.level(working_set, threads)
        return level, self.roof(level, threads)

    def transfer_seconds(self, moved: int, filled: int, threads: int) -> float:
        """Seconds in which ``moved`` bytes pass, ``filled`` of them into lines that are read first.

        Of more than ``kept_bytes``, those are found again and the rest comes from memory. There an
        ordinary store reads the line that it writes to, so a copy moves three bytes where the program
        asks for two: the triad of 32,000,000 float32 took 10.4 ms so and 8.4 past the caches.
        """
        level, bandwidth = self.bandwidth(moved, threads)
        if level != "memory":
            return moved / bandwidth
        kept = self.kept_bytes / moved
        near = moved / self.roof("L3", threads)
        far = (moved + filled) / (1.5 * bandwidth)
        return kept * near + (1 - kept) * far

    def roof(self, level: str, threads: int) -> float:
        """Bytes per second of a copy in a level of memory: L1 and L2 are each core's own."""
        one = self.streams[f"copy {level} one"]
        if threads > 1 and level in SHARED:
            return max(one, self.streams[f"copy {level} all"])
        return one * min(threads, self.cores)

    def peak(self, dtype: str, threads: int) -> float:
        """Flops per second of products in ``dtype``; float32's where that was not measured."""
        known = self.products_like(dtype)
        return 1e9 * min(self.gigaflops[known] * threads, self.gigaflops_all[known])

    def products_like(self, dtype: str) -> str:
        """The dtype whose products stand for those in ``dtype``: itself where it was measured."""
        return dtype if dtype in self.gigaflops else "float32"

    def __repr__(self) -> str:
        caches = ", ".join(
            f"L{level} {size / 1024:,.0f} KiB"
            for level, size in enumerate((self.l1_bytes, self.l2_bytes, self.l3_bytes), 1)
        )
        source = "measured" if self.measured else "shipped figures"
        return f"<machine {self.name}: cores {self.cores}, {caches}; {source}>"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def positive_integer(what: str, value: Any, advice: str) -> int:
    """``value``, NumPy's integers as Python's.

    Raises
    ------
    TypeError
        It is no integer; the message says ``what`` it is of, and ends with the ``advice``.
    ValueError
        It is not positive.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{what}={value!r}: {advice}")
    if number < 1:
        raise ValueError(f"{what}={value!r}: {advice}")
    return number


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"Machine: {name}={value!r}: give a positive number; {REMEDY}")
    if not 0 < value < float("inf"):
        raise ValueError(f"Machine: {name}={value!r}: give a positive, finite number; {REMEDY}")


def _needed(machine: Machine) -> dict[str, list[str]]:
    """The keys that plans ask each table for, whatever they compute."""
    engines = list(dict.fromkeys(("numpy", "numexpr", *machine.launch)))
    return {
        "streams": [f"copy {at} one" for at in LEVELS] + [f"copy {at} all" for at in SHARED],
        "launch": engines,
        "step": ["numpy"],
        "nanoseconds": [f"{engine} add float32" for engine in engines],  # others go by it
        "gigaflops": ["float32", *machine.gigaflops_all],
        "gigaflops_all": list(machine.gigaflops),
    }
