"""Tiles: blocked matrix products where BLAS cannot be handed the operands whole.

In: matrices, the side of a tile, an ``Arithmetic``. Out: the product, written tile by tile. An
arithmetic says how a tile is packed for BLAS, how a product of two packed tiles is added to the
sums, and how the sums become results: that is all that differs between float16, integers and truth
values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fusegraph.blas_threads import BLAS_THREADS
from fusegraph.engines.base import Array
from fusegraph.graph import DType
from fusegraph.workers import Task, run_tasks

FLOAT32_EXACT = 2**24  # integers below this, and sums that stay below it, are exact in float32
FLOAT64_EXACT = 2**53
TASK_COLUMNS = 8  # tiles side by side in one task: a packed left tile serves that many products
PACKED_TILES = 16  # left tiles kept packed; a longer row is packed again for each tile of columns


# --- the size of a tile ---------------------------------------------------------------------------


def largest_tile(cache_bytes: int, itemsize: int) -> int:
    """The largest side ``t`` of square tiles of which three fit in a cache.

    ``3 * t * t * itemsize <= cache_bytes``

    Three, because a product of tiles touches one of each operand and one of the result. 256 KiB and
    float32 give 147. At least 1.
    """
    return max(1, math.isqrt(cache_bytes // (3 * itemsize)))


def tile_for_cache(cache_bytes: int, itemsize: int) -> int:
    """``largest_tile`` rounded down to a power of two, which leaves room for other data."""
    return 1 << (largest_tile(cache_bytes, itemsize).bit_length() - 1)


def tile_bytes(tile: int, itemsize: int) -> int:
    """Bytes of the three tiles that one product of tiles touches."""
    return 3 * tile * tile * itemsize


def reread_bytes(rows: int, columns: int, left: int, right: int, tile: int) -> int:
    """What tiling reads again, in bytes of the operands.

    Every column of tiles reads the left operand (``left`` bytes) once, every row of tiles the right
    one (``right`` bytes), and the first time is no rereading:
    ``(ceil(columns / tile) - 1) * left + (ceil(rows / tile) - 1) * right``. The innermost loop runs
    over K, so sums stay in the cache and the result is written once. An upper bound where a packed
    left tile is used again.
    """
    again_left = max(0, -(-columns // tile) - 1)
    again_right = max(0, -(-rows // tile) - 1)
    return again_left * left + again_right * right


# --- arithmetics ----------------------------------------------------------------------------------


class Arithmetic(Protocol):
    """How tiles of one dtype are multiplied by BLAS."""

    sums: DType  # of the tile that products are added to
    longest: int  # inner length of a tile beyond which its products would not be exact
    scratch_per_element: int  # bytes of temporaries per element of a tile, packed operands included

    def pack(self, block: Array) -> Any:
        """A block of an operand as BLAS takes it."""

    def add_product(self, total: Array, left: Any, right: Any, scratch: Array) -> bool:
        """``total += left @ right``; True when further products cannot change the result."""

    def store(self, total: Array, out: Array) -> None:
        """Write the finished sums to the result."""


class FloatArithmetic:
    """Floats and complex numbers: packed in ``compute``, summed in it, rounded once when stored.

    float16 goes through float32 as NumPy's own matmul does; only the order of the sums differs.
    With ``u = 2**-24`` and ``g = K*u / (1 - K*u)``, any order of float32 sums stays within ``g *
    (|a| @ |b|)`` of the exact product (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.5), and the last rounding adds half a unit of float16: ``2**-11`` of the value, or
    ``2**-25`` where it is subnormal.
    """

    longest = 2**62

    def __init__(self, compute: DType) -> None:
        self.sums = compute
        self.scratch_per_element = compute.itemsize * (2 + PACKED_TILES + 1)

    def pack(self, block: Array) -> Array:
        if block.dtype == self.sums and min(block.strides) == self.sums.itemsize:
            return block  # BLAS takes it as it lies, transposed or not
        return np.ascontiguousarray(block, self.sums)

    def add_product(self, total: Array, left: Array, right: Array, scratch: Array) -> bool:
        np.matmul(left, right, out=scratch)
        np.add(total, scratch, out=total)
        return False

    def store(self, total: Array, out: Array) -> None:
        np.copyto(out, total, casting="same_kind")


class TruthArithmetic(FloatArithmetic):
    """Truth values: an element is True where any product is, so sums of ones that are positive.

    Sums of non-negative float32 never fall back to zero, whatever K is. A tile that is True all
    over is finished, as NumPy's loop leaves a row at its first True.
    """

    def __init__(self) -> None:
        super().__init__(np.dtype(np.float32))

    def add_product(self, total: Array, left: Array, right: Array, scratch: Array) -> bool:
        super().add_product(total, left, right, scratch)
        return bool(total.all())

    def store(self, total: Array, out: Array) -> None:
        np.greater(total, 0, out=out)


class IntegerArithmetic:
    """Integers, exact and wrapping as NumPy's: sums modulo ``2**64``, truncated when stored.

    The magnitudes in a pair of tiles prove which product is exact: where ``K * max|a| * max|b| <
    2**24`` one float32 product, below ``2**53`` one float64 product. Otherwise the tiles are cut
    into limbs of ``limb_bits`` (two of 16 bits for 32-bit integers, three of 22 for 64-bit ones),
    and the products of limbs whose weight is below the width of the dtype are exact in float64:
    three, or six.
    """

    sums: DType = np.dtype(np.uint64)

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.unsigned = np.dtype(f"u{dtype.itemsize}")
        self.width = 8 * dtype.itemsize
        self.limb_bits = 22 if self.width == 64 else 16
        limbs = -(-self.width // self.limb_bits)
        self.longest = FLOAT64_EXACT >> (2 * self.limb_bits)  # 512 for 64 bits, 2**21 below
        self.weights = [
            (i, j, (i + j) * self.limb_bits)
            for i, j in itertools.product(range(limbs), repeat=2)
            if (i + j) * self.limb_bits < self.width
        ]
        # A packed tile: the values, as float32, as float64, limbs. Then product, cast, shift, sums.
        packed = dtype.itemsize + 4 + 8 + 8 * limbs
        self.scratch_per_element = (PACKED_TILES + 1) * packed + 5 * 8

    def pack(self, block: Array) -> IntegerTile:
        return IntegerTile(np.ascontiguousarray(block, self.dtype), self.unsigned, self.limb_bits)

    def add_product(
        self, total: Array, left: IntegerTile, right: IntegerTile, scratch: Array
    ) -> bool:
        largest_sum = left.values.shape[1] * left.magnitude * right.magnitude
        if largest_sum < FLOAT32_EXACT:
            product = np.matmul(left.as_float32(), right.as_float32())
            total += product.astype(np.int64).view(np.uint64)
        elif largest_sum < FLOAT64_EXACT:
            np.matmul(left.as_float64(), right.as_float64(), out=scratch.view(np.float64))
            total += scratch.view(np.float64).astype(np.int64).view(np.uint64)
        else:
            self._add_limbs(total, left.limbs(), right.limbs(), scratch.view(np.float64))
        return False

    def _add_limbs(
        self, total: Array, left: list[Array], right: list[Array], scratch: Array
    ) -> None:
        for i, j, weight in self.weights:
            np.matmul(left[i], right[j], out=scratch)
            # float64 -> uint64 through int64: the direct cast is several times slower
            part = scratch.astype(np.int64).view(np.uint64)
            if weight:
                part <<= np.uint64(weight)
            total += part

    def store(self, total: Array, out: Array) -> None:
        np.copyto(out, total.astype(self.unsigned).view(self.dtype))


class IntegerTile:
    """A packed tile of integers, and the floats that stand for it, made when first asked for."""

    __slots__ = ("_float32", "_float64", "_limbs", "limb_bits", "magnitude", "unsigned", "values")

    def __init__(self, values: Array, unsigned: DType, limb_bits: int) -> None:
        self.values = values
        self.unsigned = unsigned
        self.limb_bits = limb_bits
        self.magnitude = max(int(values.max()), -int(values.min()))
        self._float32: Array = None
        self._float64: Array = None
        self._limbs: list[Array] = []

    def as_float32(self) -> Array:
        if self._float32 is None:
            self._float32 = self.values.astype(np.float32)
        return self._float32

    def as_float64(self) -> Array:
        if self._float64 is None:
            self._float64 = self.values.astype(np.float64)
        return self._float64

    def limbs(self) -> list[Array]:
        """Unsigned digits to the base ``2**limb_bits``, the lowest first: two's complement."""
        if not self._limbs:
            rest = self.values.view(self.unsigned)
            mask = self.unsigned.type((1 << self.limb_bits) - 1)
            width = 8 * self.unsigned.itemsize
            for shift in range(0, width, self.limb_bits):
                digits = (rest >> self.unsigned.type(shift)) & mask
                self._limbs.append(digits.view(f"i{self.unsigned.itemsize}").astype(np.float64))
        return self._limbs


def arithmetic_for(dtype: DType) -> Arithmetic:
    """The arithmetic of products whose loop runs in ``dtype``."""
    if dtype.kind == "b":
        return TruthArithmetic()
    if dtype.kind in "iu":
        return IntegerArithmetic(dtype)
    return FloatArithmetic(np.dtype(np.float32) if dtype == np.float16 else dtype)


def compute_itemsize(dtype: DType) -> int:
    """Bytes of an element as the tiles of ``dtype`` hold it while they are multiplied."""
    return 8 if dtype.kind in "iu" else max(4, dtype.itemsize)


# --- running --------------------------------------------------------------------------------------


def run_tiles(
    left: Array, right: Array, out: Array, tile: int, arithmetic: Arithmetic, threads: int
) -> None:
    """``out = left @ right``, tile by tile.

    Parameters
    ----------
    left, right : numpy.ndarray
        ``(..., M, K)`` and ``(..., K, N)``; batch axes as in ``out``. Any strides.
    out : numpy.ndarray
        ``(..., M, N)``.
    tile : int
        Rows and columns of a tile; tiles at the edges are smaller.
    threads : int
        Upper bound; BLAS runs on one thread inside each. Results do not depend on it.
    """
    rows, columns = out.shape[-2:]
    width = tile * TASK_COLUMNS
    places = list(
        itertools.product(
            np.ndindex(out.shape[:-2]), range(0, rows, tile), range(0, columns, width)
        )
    )

    def make_task() -> Task:
        side = min(tile, rows) * min(tile, columns)
        memory = np.empty((2, side), arithmetic.sums)

        def task(index: int) -> None:
            batch, row, column = places[index]
            with np.errstate(all="ignore"):  # the state of a thread: its caller's does not reach it
                _run_row(
                    left[(*batch, slice(row, row + tile))],
                    right[(*batch, slice(None), slice(column, column + width))],
                    out[(*batch, slice(row, row + tile), slice(column, column + width))],
                    tile,
                    arithmetic,
                    memory,
                )

        return task

    with BLAS_THREADS.at_most(1):
        run_tasks(make_task, len(places), threads)


def _run_row(
    left: Array, right: Array, out: Array, tile: int, arithmetic: Arithmetic, memory: Array
) -> None:
    """One row of tiles: ``left`` is ``(tile, K)``, ``right`` ``(K, width)``."""
    depth = min(tile, arithmetic.longest)
    starts = range(0, left.shape[1], depth)
    packed = _packed_row(left, starts, depth, arithmetic)
    for column in range(0, right.shape[1], tile):
        place = out[:, column : column + tile]
        total, scratch = (flat[: place.size].reshape(place.shape) for flat in memory)
        total[...] = 0
        for start in starts:
            block = arithmetic.pack(right[start : start + depth, column : column + tile])
            if arithmetic.add_product(total, packed(start), block, scratch):
                break
        arithmetic.store(total, place)


def _packed_row(
    left: Array, starts: range, depth: int, arithmetic: Arithmetic
) -> Callable[[int], Any]:
    """Start of a left tile -> the tile packed; kept for the next columns while the row is short."""
    kept: dict[int, Any] = {}

    def packed(start: int) -> Any:
        found = kept.get(start)
        if found is None:
            found = arithmetic.pack(left[:, start : start + depth])
            if len(starts) <= PACKED_TILES:
                kept[start] = found
        return found

    return packed
