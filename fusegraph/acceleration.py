"""The functions of the course module that fusegraph grew from, and the benchmark it promises.

In: tensors or anything that ``asarray`` takes. Out: lazy tensors; records from ``benchmark``. Each
function computes what the module's does; here the plan of the result shows what it costs.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusegraph.calibrate import current_machine
from fusegraph.elementwise import as_tensor
from fusegraph.operations import checked_tile, elementwise, matmul
from fusegraph.ops import OPS
from fusegraph.options import current_options
from fusegraph.streams import median_seconds
from fusegraph.tensor import Tensor
from fusegraph.units import ALONE

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715  # Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", tanh form


# --- products -------------------------------------------------------------------------------------


def vectorized_matmul(a: Any, b: Any) -> Tensor:
    """Matrix product through BLAS, where BLAS has the dtype.

    Parameters
    ----------
    a, b : array_like
        ``(..., M, K)`` and ``(..., K, N)``, at least two axes each.

    Returns
    -------
    Tensor
        ``(..., M, N)``, in NumPy's result dtype.

    Raises
    ------
    ValueError
        An operand has fewer than two axes, or the inner dimensions differ.
    """
    left, right = _matrices("vectorized_matmul", a, b)
    return matmul(left, right)


def tiled_matmul(a: Any, b: Any, tile_size: int = 64) -> Tensor:
    """Matrix product by tiles of ``tile_size`` rows and columns; tiles at the edges are smaller.

    Parameters
    ----------
    a, b : array_like
        ``(M, K)`` and ``(K, N)``.
    tile_size : int
        ``fusegraph.engines.tiles.tile_for_cache`` gives the size that a cache holds.

    Returns
    -------
    Tensor
        ``(M, N)``; its plan shows the tile and the bytes that tiling reads again.

    Raises
    ------
    ValueError
        An operand does not have two axes, ``tile_size`` is no positive integer, or the inner
        dimensions differ (checked in this order).
    """
    left, right = _matrices("tiled_matmul", a, b)
    shapes = left.node.shape, right.node.shape
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError(
            f"tiled_matmul: needs two dimensions, got {shapes[0]} and {shapes[1]}; "
            "use vectorized_matmul for batches"
        )
    return matmul(left, right, tile_size=checked_tile(tile_size))


def _matrices(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    left, right = as_tensor(a), as_tensor(b)
    shapes = left.node.shape, right.node.shape
    if any(len(shape) < 2 for shape in shapes):
        raise ValueError(
            f"{name}: needs 2D+ operands, got {shapes[0]} and {shapes[1]}; add axes with t[:, None]"
        )
    return left, right


# --- GELU -----------------------------------------------------------------------------------------


def fused_gelu(x: Any) -> Tensor:
    """GELU in its tanh form: ``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.

    One kernel: it reads ``x`` once and writes the result once.

    Parameters
    ----------
    x : array_like
        Any shape; floats keep their dtype, integers become float64.
    """
    x = as_tensor(x)
    cube: Tensor = x**3
    inner: Tensor = SQRT_2_OVER_PI * (x + CUBIC * cube)
    result: Tensor = 0.5 * x * (1.0 + elementwise(OPS["tanh"], inner))
    return result


def unfused_gelu(x: Any) -> Tensor:
    """The same GELU in eight kernels, one a step: the baseline for comparison.

    Lazy as ``fused_gelu``, but its operations are marked so that no kernel takes two of them: with
    the constants in registers, eight results are written and ten operands read.
    """
    x = as_tensor(x)
    temp1 = _step("pow", x, 3)
    temp2 = _step("multiply", CUBIC, temp1)
    temp3 = _step("add", x, temp2)
    temp4 = _step("multiply", SQRT_2_OVER_PI, temp3)
    temp5 = _step("tanh", temp4)
    temp6 = _step("add", 1.0, temp5)
    temp7 = _step("multiply", x, temp6)
    return _step("multiply", 0.5, temp7)


def _step(name: str, *operands: Any) -> Tensor:
    return elementwise(OPS[name], *operands, params=ALONE)


# --- benchmark ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timing:
    """One size of a benchmark. Time is measured; flops and bytes are the plan's, so modelled.

    Attributes
    ----------
    size : int
        Operands are ``(size, size)`` float32.
    seconds : float
        Median.
    gigaflops : float
        Modelled flops over measured time, in GFLOP/s.
    gigabytes : float
        Modelled bytes over measured time, in GB/s.
    share_of_peak : float
        Of what the roofline allows at the plan's arithmetic intensity: the larger of the shares of
        the machine's matrix-product rate and of its memory bandwidth.
    """

    size: int
    seconds: float
    gigaflops: float
    gigabytes: float
    share_of_peak: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Timings of one function, size by size. Printing it gives a table."""

    name: str
    timings: tuple[Timing, ...]

    def __iter__(self) -> Iterator[Timing]:
        return iter(self.timings)

    def __len__(self) -> int:
        return len(self.timings)

    def __getitem__(self, at: int) -> Timing:
        return self.timings[at]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        lines = [self.name, "  size         ms   GFLOP/s      GB/s  of peak"]
        lines += [
            f"{t.size:6d} {t.seconds * 1e3:10.3f} {t.gigaflops:9.1f} {t.gigabytes:9.2f} "
            f"{t.share_of_peak:8.1%}"
            for t in self.timings
        ]
        return "\n".join(lines)


def benchmark(
    function: Callable[..., Any], sizes: int | Sequence[int] = (128, 256, 512), repeats: int = 5
) -> Benchmark:
    """Time a function of tensors on square float32 matrices.

    Parameters
    ----------
    function : callable
        Takes tensors, one for each positional parameter without a default; returns a tensor.
    sizes : int or sequence of int
        Rows, and columns, of the matrices.
    repeats : int
        Runs of which the median counts, after one that does not.

    Raises
    ------
    ValueError
        There is no size, or a size or ``repeats`` is no positive integer.
    """
    listed = list(sizes) if isinstance(sizes, (Sequence, np.ndarray)) else [sizes]
    if not listed:
        raise ValueError("benchmark: sizes is empty; give at least one, as in sizes=[256]")
    chosen = [_positive("sizes", n) for n in listed]
    runs = _positive("repeats", repeats)
    count = _operand_count(function)
    name = getattr(function, "__name__", type(function).__name__)
    return Benchmark(name, tuple(_timing(function, count, n, runs) for n in chosen))


def _positive(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"benchmark: {name} holds {value!r}; give positive integers")
    return number


def _operand_count(function: Callable[..., Any]) -> int:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _timing(function: Callable[..., Any], count: int, size: int, repeats: int) -> Timing:
    generator = np.random.default_rng(size)
    arrays = [generator.standard_normal((size, size), np.float32) for _ in range(count)]
    operands = [Tensor(array) for array in arrays]
    cost = function(*operands).plan().cost
    seconds = median_seconds(lambda: function(*operands).compute(), repeats)
    options = current_options()
    machine = options.machine or current_machine()
    flops, moved = cost.flops / seconds, cost.bytes_moved / seconds
    peak = machine.peak("float32", options.thread_count)
    share = max(flops / peak, moved / machine.roof("memory", options.thread_count))
    return Timing(size, seconds, flops / 1e9, moved / 1e9, share)
