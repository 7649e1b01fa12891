"""The strided loop: a kernel over operands of any layout, packed where they do not lie dense.

In: a kernel's address, a shape, how its operands lie. Out: ``strided_loop``, the words by which
``fg_strided`` of ``STRIDED`` runs. Operands that are not dense in the inner axes are packed tile by tile
into scratch that stays in L1, so that a kernel sees dense operands only and vectorises whatever the
layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fusegraph.buffers import whole_lines
from fusegraph.engines.llvm.headers import ACCESSORS
from fusegraph.engines.llvm.layouts import Layout, Operand, joined
from fusegraph.engines.llvm.streaming import STREAM
from fusegraph.graph import Shape

# Before the operands of a strided loop: kernel, operands, outer steps, outer axes, rows, rows of a
# tile, columns, columns of a tile, words of an operand, and whether the kernel takes all rows in place.
# A scale and a bias a column of 400 x 1000 float32 take 40 us so, and 46 with a call for each row.
HEAD = 10
WORDS = 6  # of an operand: place in the file, mode, itemsize, place in the buffer, two strides
ROW_STRIDE = 4  # the place of the first of them, bytes from row to row
IN_PLACE, PACKED_INPUT, PACKED_OUTPUT, PACKED_ONCE, STREAMED = range(5)
# PACKED_ONCE: an input that is the same for all rows is packed for the first tile of rows only: rows of
# 100 with two such operands, 100,000 float32, took 104 us where each tile packed them.
TILE_BYTES = 24 << 10  # packed operands of a tile: they stay in L1 beside the dense ones
LARGEST_TILE = 1024  # elements
SMALL_ROW = 256  # elements of the inner axis below which a tile takes several rows


def _copy(size: int, packing: bool) -> str:
    """Rows of elements of ``size`` bytes into packed ones, or back.

    A source that does not move fills its row; rows that are dense on both sides are copied as they
    are. Loops over strides stay scalar: as vectors they took as long, and ten
    times as long to compile.
    """
    kind = "<2 x i64>" if size == 16 else f"i{8 * size}"
    name, loose = ("pack", "from") if packing else ("unpack", "to")
    packed = "to" if packing else "from"
    fill = (
        f"""
  %still = icmp eq i64 %column, 0
  br i1 %still, label %fill, label %move
fill:
  %value = load {kind}, ptr %from.at, align 1
  br label %fill.next
fill.next:
  %f = phi i64 [0, %fill], [%f1, %fill.next]
  %f.at = getelementptr inbounds {kind}, ptr %to.at, i64 %f
  store {kind} %value, ptr %f.at, align 1
  %f1 = add nuw nsw i64 %f, 1
  %f.done = icmp sge i64 %f1, %columns
  br i1 %f.done, label %row.end, label %fill.next"""
        if packing
        else """
  br label %move"""
    )
    return f"""
define internal void @{name}_{size}(ptr noalias %to, ptr noalias %from, i64 %row, i64 %column,
    i64 %rows, i64 %columns) noinline optsize {{
entry:
  %packed.row = mul i64 %columns, {size}
  %dense = icmp eq i64 %column, {size}
  br label %row.begin
row.begin:
  %r = phi i64 [0, %entry], [%r1, %row.end]
  %{packed}.off = mul i64 %r, %packed.row
  %{loose}.off = mul i64 %r, %row
  %to.at = getelementptr i8, ptr %to, i64 %to.off
  %from.at = getelementptr i8, ptr %from, i64 %from.off
  br i1 %dense, label %block, label %apart
block:
  call void @llvm.memcpy.p0.p0.i64(ptr %to.at, ptr %from.at, i64 %packed.row, i1 false)
  br label %row.end
apart:{fill}
move:
  %c = phi i64 [0, %apart], [%c1, %move]
  %c.off = mul i64 %c, %column
  %c.loose = getelementptr i8, ptr %{loose}.at, i64 %c.off
  %c.packed = getelementptr inbounds {kind}, ptr %{packed}.at, i64 %c
  %element = load {kind}, ptr %c.{"loose" if packing else "packed"}, align 1
  store {kind} %element, ptr %c.{"packed" if packing else "loose"}, align 1
  %c1 = add nuw nsw i64 %c, 1
  %c.done = icmp sge i64 %c1, %columns
  br i1 %c.done, label %row.end, label %move, !llvm.loop !1
row.end:
  %r1 = add nuw nsw i64 %r, 1
  %r.done = icmp sge i64 %r1, %rows
  br i1 %r.done, label %done, label %row.begin
done:
  ret void
}}
"""


def _copy_of_any_size(name: str) -> str:
    """``pack`` or ``unpack`` of elements whose size is known when it runs."""
    cases = " ".join(f"i64 {size}, label %size.{size}" for size in _SIZES)
    calls = "\n".join(
        f"""size.{size}:
  call void @{name}_{size}(ptr %to, ptr %from, i64 %row, i64 %column, i64 %rows, i64 %columns)
  br label %done"""
        for size in _SIZES
    )
    return f"""
define internal void @{name}(ptr %to, ptr %from, i64 %row, i64 %column, i64 %rows, i64 %columns,
    i64 %size) {{
  switch i64 %size, label %done [{cases}]
{calls}
done:
  ret void
}}
"""


def _tile_of(k: str, n: str = "") -> str:
    """Where the tile at ``%r, %c`` of operand ``%k`` lies, in place and packed; names end in ``n``."""
    return f"""\
  %size{n} = call i64 @word(ptr %operand{n}, i64 2)
  %buffer.off{n} = call i64 @word(ptr %operand{n}, i64 3)
  %row{n} = call i64 @word(ptr %operand{n}, i64 {ROW_STRIDE})
  %column{n} = call i64 @word(ptr %operand{n}, i64 5)
  %base{n} = call ptr @item(ptr %bases, i64 %{k})
  %r.off{n} = mul i64 %r, %row{n}
  %c.off{n} = mul i64 %c, %column{n}
  %tile.off{n} = add i64 %r.off{n}, %c.off{n}
  %origin{n} = getelementptr i8, ptr %base{n}, i64 %tile.off{n}
  %packed{n} = getelementptr i8, ptr %buffer, i64 %buffer.off{n}"""


_SIZES = (1, 2, 4, 8, 16)
_COPIES = "\n".join(
    [_copy(size, packing) for size in _SIZES for packing in (True, False)]
    + [_copy_of_any_size("pack"), _copy_of_any_size("unpack")]
)

STRIDED = f"""
{ACCESSORS}
{_COPIES}

define internal void @tile(ptr %loop, ptr %operands, ptr %bases, ptr %pointers, ptr %buffer,
    i64 %r, i64 %c) {{
entry:
  %kernel = call ptr @item(ptr %loop, i64 0)
  %count = call i64 @word(ptr %loop, i64 1)
  %rows = call i64 @word(ptr %loop, i64 4)
  %row.step = call i64 @word(ptr %loop, i64 5)
  %columns = call i64 @word(ptr %loop, i64 6)
  %column.step = call i64 @word(ptr %loop, i64 7)
  %words = call i64 @word(ptr %loop, i64 8)
  %rows.left = sub i64 %rows, %r
  %columns.left = sub i64 %columns, %c
  %rr = call i64 @llvm.smin.i64(i64 %row.step, i64 %rows.left)
  %cc = call i64 @llvm.smin.i64(i64 %column.step, i64 %columns.left)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %placed]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %place, label %run
place:
  %off = mul i64 %k, %words
  %operand = getelementptr i64, ptr %operands, i64 %off
  %mode = call i64 @word(ptr %operand, i64 1)
{_tile_of("k")}
  %in.place = icmp eq i64 %mode, {IN_PLACE}
  %pointer = select i1 %in.place, ptr %origin, ptr %packed
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %pointer, ptr %pointer.at
  %is.input = icmp eq i64 %mode, {PACKED_INPUT}
  %is.once = icmp eq i64 %mode, {PACKED_ONCE}
  %is.first = icmp eq i64 %r, 0
  %is.due = and i1 %is.once, %is.first
  %packs = or i1 %is.input, %is.due
  br i1 %packs, label %pack, label %placed
pack:
  call void @pack(ptr %packed, ptr %origin, i64 %row, i64 %column, i64 %rr, i64 %cc, i64 %size)
  br label %placed
placed:
  %k1 = add i64 %k, 1
  br label %next
run:
  %elements = mul i64 %rr, %cc
  call void %kernel(ptr %pointers, i64 %elements)
  br label %next2
next2:
  %j = phi i64 [0, %run], [%j1, %stored]
  %left2 = icmp slt i64 %j, %count
  br i1 %left2, label %look2, label %done
look2:
  %off2 = mul i64 %j, %words
  %operand2 = getelementptr i64, ptr %operands, i64 %off2
  %mode2 = call i64 @word(ptr %operand2, i64 1)
  %is.output = icmp eq i64 %mode2, {PACKED_OUTPUT}
  %is.streamed = icmp eq i64 %mode2, {STREAMED}
  %is.scratch = or i1 %is.output, %is.streamed
  br i1 %is.scratch, label %write, label %stored
write:
{_tile_of("j", "2")}
  br i1 %is.output, label %unpack, label %past
past:
  %bytes = mul i64 %elements, %size2
  call void @stream(ptr %origin2, ptr %packed2, i64 %bytes)
  br label %stored
unpack:
  call void @unpack(ptr %origin2, ptr %packed2, i64 %row2, i64 %column2, i64 %rr, i64 %cc,
      i64 %size2)
  br label %stored
stored:
  %j1 = add i64 %j, 1
  br label %next2
done:
  ret void
}}

define internal ptr @origin(ptr %data, ptr %loop, ptr %operand, i64 %step, i64 %axes) {{
entry:
  br label %next
next:
  %axis = phi i64 [%axes, %entry], [%axis1, %more]
  %rest = phi i64 [%step, %entry], [%rest1, %more]
  %offset = phi i64 [0, %entry], [%offset1, %more]
  %left = icmp sgt i64 %axis, 0
  br i1 %left, label %more, label %done
more:
  %axis1 = sub i64 %axis, 1
  %length.at = add i64 %axis1, {HEAD}
  %length = call i64 @word(ptr %loop, i64 %length.at)
  %index = urem i64 %rest, %length
  %rest1 = udiv i64 %rest, %length
  %stride.at = add i64 %axis1, {WORDS}
  %stride = call i64 @word(ptr %operand, i64 %stride.at)
  %moved = mul i64 %index, %stride
  %offset1 = add i64 %offset, %moved
  br label %next
done:
  %found = getelementptr i8, ptr %data, i64 %offset
  ret ptr %found
}}

define void @fg_strided(ptr %loop, ptr %places, ptr %buffer) {{
entry:
  %count = call i64 @word(ptr %loop, i64 1)
  %steps = call i64 @word(ptr %loop, i64 2)
  %axes = call i64 @word(ptr %loop, i64 3)
  %rows = call i64 @word(ptr %loop, i64 4)
  %row.step = call i64 @word(ptr %loop, i64 5)
  %columns = call i64 @word(ptr %loop, i64 6)
  %column.step = call i64 @word(ptr %loop, i64 7)
  %words = call i64 @word(ptr %loop, i64 8)
  %nest = call i64 @word(ptr %loop, i64 9)
  %by.rows = icmp ne i64 %nest, 0
  %operands.at = add i64 %axes, {HEAD}
  %operands = getelementptr i64, ptr %loop, i64 %operands.at
  %bases = alloca ptr, i64 %count
  %pointers = alloca ptr, i64 %count
  br label %step
step:
  %s = phi i64 [0, %entry], [%s1, %step.end]
  br label %next
next:
  %k = phi i64 [0, %step], [%k1, %found]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %found, label %run
found:
  %off = mul i64 %k, %words
  %operand = getelementptr i64, ptr %operands, i64 %off
  %place = call i64 @word(ptr %operand, i64 0)
  %data = call ptr @item(ptr %places, i64 %place)
  %base = call ptr @origin(ptr %data, ptr %loop, ptr %operand, i64 %s, i64 %axes)
  %base.at = getelementptr ptr, ptr %bases, i64 %k
  store ptr %base, ptr %base.at
  %k1 = add i64 %k, 1
  br label %next
run:
  br i1 %by.rows, label %by.itself, label %column
by.itself:
  %kernel = call ptr @item(ptr %loop, i64 0)
  call void %kernel(ptr %bases, i64 %columns, i64 %rows, ptr %operands, i64 %words)
  br label %step.end
column:
  %c = phi i64 [0, %run], [%c1, %column.end]
  br label %row
row:
  %r = phi i64 [0, %column], [%r1, %row]
  call void @tile(ptr %loop, ptr %operands, ptr %bases, ptr %pointers, ptr %buffer, i64 %r, i64 %c)
  %r1 = add i64 %r, %row.step
  %r.left = icmp slt i64 %r1, %rows
  br i1 %r.left, label %row, label %column.end
column.end:
  %c1 = add i64 %c, %column.step
  %c.left = icmp slt i64 %c1, %columns
  br i1 %c.left, label %column, label %step.end
step.end:
  %s1 = add i64 %s, 1
  %s.left = icmp slt i64 %s1, %steps
  br i1 %s.left, label %step, label %done
done:
  ret void
}}

define void @fg_strided_past(ptr %loop, ptr %places, ptr %buffer) {{
  call void @fg_strided(ptr %loop, ptr %places, ptr %buffer)
  fence seq_cst
  ret void
}}

{STREAM}
declare i64 @llvm.smin.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

!1 = distinct !{{!1, !2}}
!2 = !{{!"llvm.loop.vectorize.enable", i1 false}}
"""


def strided_loop(
    kernel_for: Callable[[bool], int],
    shape: Shape,
    operands: Sequence[Operand],
    by_rows: bool,
    streams: bool = False,
) -> Layout:
    """The loop of an element-wise kernel over ``shape``: axes joined, dense operands left in place.

    ``kernel_for`` gives the address of the kernel: for dense elements, or where it is told True for
    rows, which it is where ``by_rows`` and all of them lie in place. ``streams``: dense results go past
    the caches.
    """
    shape, operands = joined(shape, operands)
    rows, columns = ((1,) * 2 + shape)[-2:]
    outer = shape[:-2]
    several = columns < SMALL_ROW and rows > 1
    dense = [o.single or _dense(o, columns, several) for o in operands]
    modes = [_mode(o, d, streams) for o, d in zip(operands, dense, strict=True)]
    each = sum(o.itemsize for o, m in zip(operands, modes, strict=True) if m != IN_PLACE)
    tile = min(LARGEST_TILE, max(16, TILE_BYTES // max(1, each) // 16 * 16))
    row_step, column_step = 1, columns
    if several:
        row_step = max(1, min(rows, tile // columns)) if each else rows
    elif each:
        column_step = min(columns, tile)
    by_rows = by_rows and columns >= SMALL_ROW and not each
    steps = (rows, row_step), (columns, column_step)
    return _record(kernel_for(by_rows), by_rows, outer, *steps, operands, modes)


def _mode(operand: Operand, dense: bool, streams: bool) -> int:
    """Where a tile of an operand is read or written."""
    if dense:
        return STREAMED if operand.written and streams else IN_PLACE
    if operand.written:
        return PACKED_OUTPUT
    return PACKED_INPUT if (0, *operand.strides)[-2] else PACKED_ONCE


def fixed_in_rows(shape: Shape, operands: Sequence[Operand]) -> tuple[bool, ...]:
    """Which inputs are one element for a whole row, where a tile takes no more than one."""
    shape, operands = joined(shape, operands)
    long = shape[-1] >= SMALL_ROW
    return tuple(long and not o.written and o.strides[-1] == 0 for o in operands)


def _dense(operand: Operand, columns: int, several: bool) -> bool:
    row, column = ((0,) * 2 + operand.strides)[-2:]
    dense = column == operand.itemsize and (not several or row == columns * operand.itemsize)
    return dense and operand.aligned


def _record(
    kernel: int,
    by_rows: bool,
    outer: Shape,
    rows: tuple[int, int],
    columns: tuple[int, int],
    operands: Sequence[Operand],
    modes: Sequence[int],
) -> Layout:
    words = [kernel, len(operands), math.prod(outer), len(outer), *rows, *columns]
    words += [WORDS + len(outer), int(by_rows), *outer]
    place = 0
    for at, (operand, mode) in enumerate(zip(operands, modes, strict=True)):
        row, column = ((0,) * 2 + operand.strides)[-2:]
        words += [at, mode, operand.itemsize, place, row, column]
        words += operand.strides[:-2]
        if mode != IN_PLACE:
            place += whole_lines(operand.itemsize * rows[1] * columns[1])
    return Layout.of(words, place)
