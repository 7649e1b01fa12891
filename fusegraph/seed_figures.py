"""The worked figures of the course module, each derived from the cost model.

In: nothing, or the inputs of a question. Out: records (``Intensity``, ``GeluCount``, ``Saving``).
Nothing here runs a kernel: flops and bytes are those of plans over arrays that are never read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusegraph.acceleration import fused_gelu, unfused_gelu, vectorized_matmul
from fusegraph.cost import Cost
from fusegraph.engines.tiles import largest_tile, tile_bytes, tile_for_cache
from fusegraph.machine_file import default_machine
from fusegraph.roofline import Point
from fusegraph.tensor import Tensor

MEBIBYTE = 2**20


def product_cost(size: int) -> Cost:
    """Cost of a float32 product of two ``(size, size)`` matrices."""
    return vectorized_matmul(_empty((size, size)), _empty((size, size))).plan().cost


def addition_cost(size: int) -> Cost:
    """Cost of adding two float32 arrays of ``size`` elements."""
    return (_empty((size,)) + _empty((size,))).plan().cost


def _empty(shape: tuple[int, ...]) -> Tensor:
    return Tensor(np.empty(shape, np.float32))


@dataclass(frozen=True, slots=True)
class Intensity:
    """A row of the module's table of arithmetic intensities.

    ``stated`` is what the table says, in flops a byte; ``point`` what the roofline of the plan says.
    """

    name: str
    stated: str
    point: Point


def intensities(size: int) -> tuple[Intensity, Intensity, Intensity]:
    """Addition, fused GELU and product of ``(size, size)`` float32, by the shipped profile."""
    x, y = _empty((size, size)), _empty((size, size))
    return (
        Intensity("addition", "0.08", _only_point(x + y)),
        Intensity("GELU, fused", "about 1", _only_point(fused_gelu(x))),
        Intensity("product", "N/6", _only_point(vectorized_matmul(x, y))),
    )


def _only_point(result: Tensor) -> Point:
    """Of the one kernel that computes ``result``."""
    (point,) = result.plan(machine=default_machine(), threads=2).roofline().after
    return point


@dataclass(frozen=True, slots=True)
class GeluCount:
    """One way to count the traffic of GELU without fusion, in passes over the array."""

    name: str
    reads: int
    writes: int
    why: str

    @property
    def passes(self) -> int:
        """Reads and writes of the whole array."""
        return self.reads + self.writes


def gelu_counts(size: int = 1_000_000) -> tuple[GeluCount, GeluCount, GeluCount]:
    """The three counts, from the plan of ``unfused_gelu``: its kernels, operands and results."""
    kernels = unfused_gelu(_empty((size,))).plan().kernels
    intermediates = len(kernels) - 1
    reads = sum(k.cost.bytes_read for k in kernels) // (4 * size)
    writes = sum(k.cost.bytes_written for k in kernels) // (4 * size)
    return (
        GeluCount(
            "the text", intermediates, intermediates,
            "each intermediate is written once and read once; input and result are left out",
        ),
        GeluCount(
            "question 2", intermediates + 1, intermediates + 1,
            "as the text, and the input is read once and the result written once",
        ),
        GeluCount(
            "operand by operand", reads, writes,
            "x is an operand of three steps, so it is read three times",
        ),
    )  # fmt: skip


def fused_passes(size: int = 1_000_000) -> int:
    """Passes of the fused GELU over its array."""
    return fused_gelu(_empty((size,))).plan().cost.bytes_moved // (4 * size)


@dataclass(frozen=True, slots=True)
class Saving:
    """Traffic before and after fusion, and the time it takes at a bandwidth."""

    before_bytes: int
    after_bytes: int
    bandwidth: float = 50e9  # bytes per second

    @property
    def before_mebibytes(self) -> float:
        return self.before_bytes / MEBIBYTE

    @property
    def after_mebibytes(self) -> float:
        return self.after_bytes / MEBIBYTE

    @property
    def saved(self) -> float:
        """Share of the traffic that fusion saves."""
        return 1 - self.after_bytes / self.before_bytes

    @property
    def before_milliseconds(self) -> float:
        return self.before_bytes / self.bandwidth * 1e3

    @property
    def after_milliseconds(self) -> float:
        return self.after_bytes / self.bandwidth * 1e3

    @property
    def speedup(self) -> float:
        return self.before_bytes / self.after_bytes


def gelu_saving(size: int, count: GeluCount, bandwidth: float = 50e9) -> Saving:
    """What fusing GELU saves on ``size`` float32, by one of the counts."""
    return Saving(4 * size * count.passes, 4 * size * fused_passes(size), bandwidth)


def tile_figures(cache_bytes: int, itemsize: int) -> tuple[int, int, int]:
    """Largest tile, tile in practice, and bytes of the three tiles in practice."""
    tile = tile_for_cache(cache_bytes, itemsize)
    return largest_tile(cache_bytes, itemsize), tile, tile_bytes(tile, itemsize)


def achieved(flops: float, seconds: float, peak_gigaflops: float) -> tuple[float, float]:
    """GFLOP/s, and the share of the peak."""
    rate = flops / seconds / 1e9
    return rate, rate / peak_gigaflops


def fusion_gain(before: float, after: float) -> tuple[float, float]:
    """Speed-up, and the share of the time before that was saved."""
    return before / after, (before - after) / before
