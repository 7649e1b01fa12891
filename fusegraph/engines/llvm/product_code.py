"""Products in panels as IR: functions that pack a right side and multiply rows by it.

In: the element type and how many accumulators the registers hold. Out: the text of a module. The form is
that of K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): the
right side lies in strips of a few vectors, so that the inner loop reads it in order; rows by vectors of
accumulators stay in registers while the inner axis passes, in blocks whose strip stays in L1. Each
element of a result is added up in the order of the inner axis, whatever the height of the panel.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

SECTION = (
    1024  # of the inner axis that all strips see before the next: of the left side, it stays in L2
)
INNER = 256  # of the inner axis at a time: a strip of 48 float32 is 48 kB, the size of L1

PACKED_ROWS = 64  # of a right side at a time: what is written of a strip stays in L1


WIDTHS = (3, 2, 1)  # vectors of a strip


class Blocking(NamedTuple):
    """Accumulators: ``rows`` by up to three vectors of ``lanes`` elements."""

    rows: int
    lanes: int


class ProductWriter:
    """Writes the functions for one element type and blocking."""

    def __init__(self, kind: str, form: Blocking) -> None:
        self.kind, self.form = kind, form
        self.vector = f"<{form.lanes} x {kind}>"
        self.fma = f"llvm.fma.v{form.lanes}{'f32' if kind == 'float' else 'f64'}"

    def text(self) -> str:
        kernels = [self.micro(r, v) for r in (self.form.rows, 1) for v in WIDTHS]
        arguments = ", ".join([self.vector] * 3)
        return "\n".join(
            [
                *kernels,
                *map(self.strip, WIDTHS),
                self.width(),
                self.turn(),
                self.multiply(),
                self.pack(),
                self.batch(),
                f"declare {self.vector} @{self.fma}({arguments})",
                "declare i64 @llvm.smin.i64(i64, i64)",
            ]
        )

    def micro(self, rows: int, vectors: int) -> str:
        """``c (+)= a @ b`` over ``inner``: ``rows`` of a, a strip of ``vectors``; ``fresh``: from 0."""
        kind, lanes, vector = self.kind, self.form.lanes, self.vector
        cells = list(itertools.product(range(rows), range(vectors)))
        lines = [
            f"define internal void @micro_{rows}_{vectors}(ptr noalias %a, i64 %a.row, ptr noalias %b, "
            "ptr noalias %c, i64 %c.row, i64 %inner, i1 %fresh) noinline {",
            "entry:",
        ]
        for r in range(rows):
            lines += [
                f"  %a{r}.off = mul i64 %a.row, {r}",
                f"  %a{r} = getelementptr {kind}, ptr %a, i64 %a{r}.off",
                f"  %c{r}.off = mul i64 %c.row, {r}",
                f"  %c{r} = getelementptr {kind}, ptr %c, i64 %c{r}.off",
            ]
        lines += [
            f"  %c{r}.{v} = getelementptr {kind}, ptr %c{r}, i64 {v * lanes}" for r, v in cells
        ]
        lines += ["  br i1 %fresh, label %zero, label %held", "held:"]
        lines += [
            f"  %h{r}.{v} = load {vector}, ptr %c{r}.{v}, align {self.size}" for r, v in cells
        ]
        lines += ["  br label %loop", "zero:", "  br label %loop", "loop:"]
        lines.append("  %k = phi i64 [0, %held], [0, %zero], [%k1, %loop]")
        lines += [
            f"  %s{r}.{v} = phi {vector} [%h{r}.{v}, %held], [zeroinitializer, %zero], "
            f"[%t{r}.{v}, %loop]"
            for r, v in cells
        ]
        lines.append(f"  %b.off = mul i64 %k, {vectors * lanes}")
        for v in range(vectors):
            lines += [
                f"  %b{v}.off = add i64 %b.off, {v * lanes}",
                f"  %b{v}.at = getelementptr {kind}, ptr %b, i64 %b{v}.off",
                f"  %b{v} = load {vector}, ptr %b{v}.at, align {self.size}",
            ]
        for r in range(rows):
            lines += [
                f"  %x{r}.at = getelementptr {kind}, ptr %a{r}, i64 %k",
                f"  %x{r}.one = load {kind}, ptr %x{r}.at, align {self.size}",
                f"  %x{r}.in = insertelement {vector} poison, {kind} %x{r}.one, i32 0",
                f"  %x{r} = shufflevector {vector} %x{r}.in, {vector} poison, "
                f"<{lanes} x i32> zeroinitializer",
            ]
        lines += [
            f"  %t{r}.{v} = call {vector} @{self.fma}({vector} %x{r}, {vector} %b{v}, "
            f"{vector} %s{r}.{v})"
            for r, v in cells
        ]
        lines += [
            "  %k1 = add nuw nsw i64 %k, 1",
            "  %more = icmp slt i64 %k1, %inner",
            "  br i1 %more, label %loop, label %done",
            "done:",
        ]
        lines += [f"  store {vector} %t{r}.{v}, ptr %c{r}.{v}, align {self.size}" for r, v in cells]
        return "\n".join([*lines, "  ret void", "}"])

    @property
    def size(self) -> int:
        return 4 if self.kind == "float" else 8

    def strip(self, vectors: int) -> str:
        """All rows of a panel times one strip."""
        rows, kind = self.form.rows, self.kind
        call = "ptr %a.at, i64 %a.row, ptr %b, ptr %c.at, i64 %c.row, i64 %inner, i1 %fresh"
        return f"""
define internal void @strip_{vectors}(ptr %a, i64 %a.row, ptr %b, ptr %c, i64 %c.row, i64 %rows,
    i64 %inner, i1 %fresh) {{
entry:
  br label %next
next:
  %r = phi i64 [0, %entry], [%r1, %ran]
  %left = sub i64 %rows, %r
  %some = icmp sgt i64 %left, 0
  br i1 %some, label %place, label %done
place:
  %a.off = mul i64 %r, %a.row
  %a.at = getelementptr {kind}, ptr %a, i64 %a.off
  %c.off = mul i64 %r, %c.row
  %c.at = getelementptr {kind}, ptr %c, i64 %c.off
  %many = icmp sge i64 %left, {rows}
  br i1 %many, label %several, label %single
several:
  call void @micro_{rows}_{vectors}({call})
  br label %ran
single:
  call void @micro_1_{vectors}({call})
  br label %ran
ran:
  %step = select i1 %many, i64 {rows}, i64 1
  %r1 = add i64 %r, %step
  br label %next
done:
  ret void
}}
"""

    def width(self) -> str:
        """How many columns the next strip has: three vectors, but of four that are left two and two."""
        lanes = self.form.lanes
        return f"""
define internal i64 @width(i64 %left) alwaysinline {{
  %vectors = udiv i64 %left, {lanes}
  %is.four = icmp eq i64 %vectors, 4
  %at.least = call i64 @llvm.smax.i64(i64 %vectors, i64 1)
  %at.most = call i64 @llvm.smin.i64(i64 %at.least, i64 3)
  %chosen = select i1 %is.four, i64 2, i64 %at.most
  %columns = mul i64 %chosen, {lanes}
  ret i64 %columns
}}
declare i64 @llvm.smax.i64(i64, i64)
"""

    def multiply(self) -> str:
        """``fg_multiply``: strip by strip; columns that are no whole vector by way of a buffer."""
        kind, lanes = self.kind, self.form.lanes
        return f"""
define void @fg_multiply(ptr %a, i64 %a.row, ptr %packed, ptr %c, i64 %c.row, i64 %rows, i64 %columns,
    i64 %inner, ptr %edge) {{
entry:
  br label %section
section:
  %start = phi i64 [0, %entry], [%end, %section.end]
  %after = add i64 %start, {SECTION}
  %end = call i64 @llvm.smin.i64(i64 %after, i64 %inner)
  br label %strip
strip:
  %n = phi i64 [0, %section], [%n1, %strip.end]
  %n.left = sub i64 %columns, %n
  %width = call i64 @width(i64 %n.left)
  %strip.off = mul i64 %n, %inner
  %c.at = getelementptr {kind}, ptr %c, i64 %n
  br label %block
block:
  %k = phi i64 [%start, %strip], [%k1, %block.end]
  %k.left = sub i64 %end, %k
  %depth = call i64 @llvm.smin.i64(i64 %k.left, i64 {INNER})
  %fresh = icmp eq i64 %k, 0
  %a.at = getelementptr {kind}, ptr %a, i64 %k
  %depth.off = mul i64 %k, %width
  %b.off = add i64 %strip.off, %depth.off
  %b = getelementptr {kind}, ptr %packed, i64 %b.off
  switch i64 %width, label %one [i64 {3 * lanes}, label %three i64 {2 * lanes}, label %two]
three:
  call void @strip_3(ptr %a.at, i64 %a.row, ptr %b, ptr %c.at, i64 %c.row, i64 %rows, i64 %depth,
      i1 %fresh)
  br label %block.end
two:
  call void @strip_2(ptr %a.at, i64 %a.row, ptr %b, ptr %c.at, i64 %c.row, i64 %rows, i64 %depth,
      i1 %fresh)
  br label %block.end
one:
  %fits = icmp sge i64 %n.left, {lanes}
  br i1 %fits, label %direct, label %buffered
direct:
  call void @strip_1(ptr %a.at, i64 %a.row, ptr %b, ptr %c.at, i64 %c.row, i64 %rows, i64 %depth,
      i1 %fresh)
  br label %block.end
buffered:
  call void @strip_1(ptr %a.at, i64 %a.row, ptr %b, ptr %edge, i64 {lanes}, i64 %rows, i64 %depth,
      i1 %fresh)
  %bytes = mul i64 %n.left, {self.size}
  br label %copy
copy:
  %r = phi i64 [0, %buffered], [%r1, %copied]
  %r.some = icmp slt i64 %r, %rows
  br i1 %r.some, label %copied, label %block.end
copied:
  %edge.off = mul i64 %r, {lanes}
  %edge.at = getelementptr {kind}, ptr %edge, i64 %edge.off
  %to.off = mul i64 %r, %c.row
  %to.at = getelementptr {kind}, ptr %c.at, i64 %to.off
  call void @llvm.memcpy.p0.p0.i64(ptr %to.at, ptr %edge.at, i64 %bytes, i1 false)
  %r1 = add i64 %r, 1
  br label %copy
block.end:
  %k1 = add i64 %k, {INNER}
  %k.more = icmp slt i64 %k1, %end
  br i1 %k.more, label %block, label %strip.end
strip.end:
  %n1 = add i64 %n, %width
  %n.more = icmp slt i64 %n1, %columns
  br i1 %n.more, label %strip, label %section.end
section.end:
  %s.more = icmp slt i64 %end, %inner
  br i1 %s.more, label %section, label %done
done:
  ret void
}}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""

    def turn(self) -> str:
        """A square of as many vectors as each has elements, rows for columns.

        In step s, two vectors whose numbers differ in bit s exchange the elements whose places do: a
        vector's number and its elements' places have changed roles when every bit has had its turn.
        """
        lanes, vector = self.form.lanes, self.vector
        lines = [
            "define internal void @turn(ptr %from, i64 %step, ptr %to, i64 %width) alwaysinline {"
        ]
        for r in range(lanes):
            lines += [
                f"  %f{r}.off = mul i64 %step, {r}",
                f"  %f{r} = getelementptr i8, ptr %from, i64 %f{r}.off",
                f"  %v0.{r} = load {vector}, ptr %f{r}, align 1",
            ]
        steps = lanes.bit_length() - 1
        for s, r in itertools.product(range(steps), range(lanes)):
            low, high = r & ~(1 << s), r | (1 << s)
            own = r >> s & 1
            # Places whose bit is the vector's stay; the others come from the partner's place beside.
            places = [j if (j >> s & 1) == own else j ^ (1 << s) for j in range(lanes)]
            sides = [(j >> s & 1) for j in range(lanes)]
            mask = ", ".join(
                f"i32 {place + lanes * side}" for place, side in zip(places, sides, strict=True)
            )
            lines.append(
                f"  %v{s + 1}.{r} = shufflevector {vector} %v{s}.{low}, {vector} %v{s}.{high}, "
                f"<{lanes} x i32> <{mask}>"
            )
        for r in range(lanes):
            lines += [
                f"  %t{r}.off = mul i64 %width, {r}",
                f"  %t{r} = getelementptr {self.kind}, ptr %to, i64 %t{r}.off",
                f"  store {vector} %v{steps}.{r}, ptr %t{r}, align {self.size}",
            ]
        return "\n".join([*lines, "  ret void", "}"])

    def pack(self) -> str:
        """``fg_pack``: a right side into strips, zeros behind the last column; strides in bytes.

        It runs along rows or columns, whichever are nearer together in memory. Of whole strips dense
        rows are copied as vectors, and dense columns turned as squares of vectors: 768 x 3072 float32
        took 3.8 ms element by element, and takes 0.4.
        """
        kind, lanes, vector = self.kind, self.form.lanes, self.vector
        return f"""
define void @fg_pack(ptr %b, i64 %b.row, i64 %b.column, ptr %packed, i64 %columns, i64 %inner) {{
entry:
  %turned = icmp slt i64 %b.row, %b.column
  %is.dense = icmp eq i64 %b.column, {self.size}
  %is.turned.dense = icmp eq i64 %b.row, {self.size}
  br label %strip
strip:
  %n = phi i64 [0, %entry], [%n1, %strip.end]
  %n.left = sub i64 %columns, %n
  %width = call i64 @width(i64 %n.left)
  %strip.off = mul i64 %n, %inner
  %to = getelementptr {kind}, ptr %packed, i64 %strip.off
  %n.off = mul i64 %n, %b.column
  %from = getelementptr i8, ptr %b, i64 %n.off
  %some = call i64 @llvm.smin.i64(i64 %width, i64 %n.left)
  %is.whole = icmp eq i64 %some, %width
  %vectors = and i1 %is.dense, %is.whole
  br i1 %vectors, label %copy, label %square.first
square.first:
  %squares = and i1 %is.turned.dense, %is.whole
  %squared = and i64 %inner, {-lanes}
  %some.squares = icmp sgt i64 %squared, 0
  %turns = and i1 %squares, %some.squares
  %k.first = select i1 %turns, i64 %squared, i64 0
  br i1 %turns, label %square.row, label %block.first
square.row:
  %s = phi i64 [0, %square.first], [%s1, %square.end]
  %s.off = mul i64 %s, {self.size}
  %s.from = getelementptr i8, ptr %from, i64 %s.off
  %s.to.off = mul i64 %s, %width
  %s.to = getelementptr {kind}, ptr %to, i64 %s.to.off
  br label %square
square:
  %w = phi i64 [0, %square.row], [%w1, %square]
  %w.off = mul i64 %w, %b.column
  %w.from = getelementptr i8, ptr %s.from, i64 %w.off
  %w.to = getelementptr {kind}, ptr %s.to, i64 %w
  call void @turn(ptr %w.from, i64 %b.column, ptr %w.to, i64 %width)
  %w1 = add nuw nsw i64 %w, {lanes}
  %w.more = icmp slt i64 %w1, %width
  br i1 %w.more, label %square, label %square.end
square.end:
  %s1 = add nuw nsw i64 %s, {lanes}
  %s.more = icmp slt i64 %s1, %squared
  br i1 %s.more, label %square.row, label %block.first
block.first:
  %left.over = icmp slt i64 %k.first, %inner
  br i1 %left.over, label %block, label %strip.end
copy:
  %c = phi i64 [0, %strip], [%c1, %copy.end]
  %c.off = mul i64 %c, %b.row
  %c.from = getelementptr i8, ptr %from, i64 %c.off
  %c.to.off = mul i64 %c, %width
  %c.to = getelementptr {kind}, ptr %to, i64 %c.to.off
  br label %vector
vector:
  %q = phi i64 [0, %copy], [%q1, %vector]
  %q.from = getelementptr {kind}, ptr %c.from, i64 %q
  %q.to = getelementptr {kind}, ptr %c.to, i64 %q
  %q.value = load {vector}, ptr %q.from, align 1
  store {vector} %q.value, ptr %q.to, align {self.size}
  %q1 = add nuw nsw i64 %q, {lanes}
  %q.more = icmp slt i64 %q1, %width
  br i1 %q.more, label %vector, label %copy.end
copy.end:
  %c1 = add nuw nsw i64 %c, 1
  %c.more = icmp slt i64 %c1, %inner
  br i1 %c.more, label %copy, label %strip.end
block:
  %k = phi i64 [%k.first, %block.first], [%k1, %block.end]
  %k.left = sub i64 %inner, %k
  %depth = call i64 @llvm.smin.i64(i64 %k.left, i64 {PACKED_ROWS})
  %k.from = mul i64 %k, %b.row
  %block.from = getelementptr i8, ptr %from, i64 %k.from
  %k.to = mul i64 %k, %width
  %block.to = getelementptr {kind}, ptr %to, i64 %k.to
  %outer = select i1 %turned, i64 %width, i64 %depth
  %within = select i1 %turned, i64 %depth, i64 %width
  %from.outer = select i1 %turned, i64 %b.column, i64 %b.row
  %from.within = select i1 %turned, i64 %b.row, i64 %b.column
  %to.outer = select i1 %turned, i64 1, i64 %width
  %to.within = select i1 %turned, i64 %width, i64 1
  br label %row
row:
  %u = phi i64 [0, %block], [%u1, %row.end]
  %u.from = mul i64 %u, %from.outer
  %from.at = getelementptr i8, ptr %block.from, i64 %u.from
  %u.to = mul i64 %u, %to.outer
  %to.at = getelementptr {kind}, ptr %block.to, i64 %u.to
  br label %element
element:
  %v = phi i64 [0, %row], [%v1, %element.end]
  %column = select i1 %turned, i64 %u, i64 %v
  %inside = icmp slt i64 %column, %some
  br i1 %inside, label %load, label %element.end
load:
  %v.from = mul i64 %v, %from.within
  %v.from.at = getelementptr i8, ptr %from.at, i64 %v.from
  %found = load {kind}, ptr %v.from.at, align 1
  br label %element.end
element.end:
  %value = phi {kind} [0.0, %element], [%found, %load]
  %v.to = mul i64 %v, %to.within
  %v.to.at = getelementptr {kind}, ptr %to.at, i64 %v.to
  store {kind} %value, ptr %v.to.at
  %v1 = add nuw nsw i64 %v, 1
  %v.more = icmp slt i64 %v1, %within
  br i1 %v.more, label %element, label %row.end
row.end:
  %u1 = add nuw nsw i64 %u, 1
  %u.more = icmp slt i64 %u1, %outer
  br i1 %u.more, label %row, label %block.end
block.end:
  %k1 = add nuw nsw i64 %k, {PACKED_ROWS}
  %k.more = icmp slt i64 %k1, %inner
  br i1 %k.more, label %block, label %strip.end
strip.end:
  %n1 = add i64 %n, %width
  %n.more = icmp slt i64 %n1, %columns
  br i1 %n.more, label %strip, label %done
done:
  ret void
}}
"""

    def batch(self) -> str:
        """``fg_products``: matrices one behind the other; their right sides are packed where ``work`` is
        no null pointer. Steps from matrix to matrix and strides of ``b`` are in bytes.
        """
        return """
define void @fg_products(i64 %count, ptr %a, i64 %a.step, i64 %a.row, ptr %b, i64 %b.step, i64 %b.row,
    i64 %b.column, ptr %c, i64 %c.step, i64 %c.row, i64 %rows, i64 %columns, i64 %inner, ptr %edge,
    ptr %work) {
entry:
  %packs = icmp ne ptr %work, null
  br label %next
next:
  %m = phi i64 [0, %entry], [%m1, %run]
  %some = icmp slt i64 %m, %count
  br i1 %some, label %place, label %done
place:
  %a.off = mul i64 %m, %a.step
  %a.at = getelementptr i8, ptr %a, i64 %a.off
  %b.off = mul i64 %m, %b.step
  %b.at = getelementptr i8, ptr %b, i64 %b.off
  %c.off = mul i64 %m, %c.step
  %c.at = getelementptr i8, ptr %c, i64 %c.off
  br i1 %packs, label %pack, label %run
pack:
  call void @fg_pack(ptr %b.at, i64 %b.row, i64 %b.column, ptr %work, i64 %columns, i64 %inner)
  br label %run
run:
  %right = phi ptr [%b.at, %place], [%work, %pack]
  call void @fg_multiply(ptr %a.at, i64 %a.row, ptr %right, ptr %c.at, i64 %c.row, i64 %rows,
      i64 %columns, i64 %inner, ptr %edge)
  %m1 = add nuw nsw i64 %m, 1
  br label %next
done:
  ret void
}
"""
