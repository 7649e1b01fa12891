"""Products in panels as IR: functions that pack a right side and multiply rows by it.

In: the element type and how many accumulators the registers hold. Out: the text of a module. The form is
that of K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): the
right side lies in strips of a few vectors, so that the inner loop reads it in order; rows by vectors of
accumulators stay in registers while the inner axis passes, in blocks whose strip stays in L1. Each
element of a result is added up in the order of the inner axis, whatever the height of the panel: block
by block of ``INNER``, so that its error grows with their number and not with all that is added.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fusegraph.engines.llvm.jobs import JOB_OWN
from fusegraph.engines.llvm.packing_code import AS_WRITTEN, METADATA, Blocking, PackWriter

# Elements of the inner axis that all strips see before the next: of the left side, they stay in L2.
SECTION = 1024
INNER = 256  # of the inner axis at a time: a strip of 48 float32 is 48 kB, the size of L1

WIDTHS = (3, 2, 1)  # vectors of a strip

# Words of a job that packs a right side, of ``step`` columns a task, and of one that multiplies dense
# rows, ``height`` of them a task, each thread in ``room`` bytes of ``scratch``. Strides and where either
# side begins are in bytes. Behind them addresses: of what the right side is part of, and what is packed;
# of what the left side is part of, that, and the result.
PACK_WORDS = ("b_start", "b_row", "b_column", "columns", "inner", "step", "scratch")
ROWS_WORDS = ("a_start", "rows", "columns", "inner", "height", "room", "scratch")
# Words of a product in a chain, as ``fg_products`` takes them. It packs its right side behind ``edge``
# bytes of scratch; 0: that is packed already. A left side whose rows are not dense is copied behind
# ``copy`` bytes of it, from strides in bytes; 0: they are.
PRODUCT_WORDS = (
    "count", "rows", "columns", "inner", "a_step", "a_row", "b_step", "b_row", "b_column", "c_step",
    "c_row", "edge", "copy", "from_row", "from_column",
)  # fmt: skip


class ProductWriter(PackWriter):
    """Writes the functions for one element type and blocking."""

    def __init__(self, kind: str, form: Blocking) -> None:
        super().__init__(kind, form)
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
                self.part(),
                self.tasks(),
                f"declare {self.vector} @{self.fma}({arguments})",
                "declare i64 @llvm.smin.i64(i64, i64)",
                METADATA,
            ]
        )

    def micro(self, rows: int, vectors: int) -> str:
        """``c (+)= a @ b`` over ``inner``: ``rows`` of a, a strip of ``vectors``; ``fresh``: new."""
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
        lines += ["  br label %loop", "loop:", "  %k = phi i64 [0, %entry], [%k1, %loop]"]
        lines += [
            f"  %s{r}.{v} = phi {vector} [zeroinitializer, %entry], [%t{r}.{v}, %loop]"
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
            f"  br i1 %more, label %loop, label %summed{AS_WRITTEN}",
            "summed:",
            "  br i1 %fresh, label %store, label %add",
            "add:",
        ]
        for r, v in cells:
            lines += [
                f"  %h{r}.{v} = load {vector}, ptr %c{r}.{v}, align {self.size}",
                f"  %u{r}.{v} = fadd {vector} %h{r}.{v}, %t{r}.{v}",
            ]
        lines += ["  br label %store", "store:"]
        lines += [
            f"  %w{r}.{v} = phi {vector} [%t{r}.{v}, %summed], [%u{r}.{v}, %add]" for r, v in cells
        ]
        lines += [f"  store {vector} %w{r}.{v}, ptr %c{r}.{v}, align {self.size}" for r, v in cells]
        return "\n".join([*lines, "  ret void", "}"])

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

    def part(self) -> str:
        """``fg_products_part``: ``fg_products`` as a call of a chain."""
        return f"""
define void @fg_products_part(ptr %words, ptr %pointers, ptr %scratch) {{
entry:
{_words("words", 0, PRODUCT_WORDS)}
{_words("pointers", 0, (), "a", "b", "c")}
  %to = getelementptr i8, ptr %scratch, i64 %copy
  %in.place = icmp eq i64 %copy, 0
  %left = select i1 %in.place, ptr %a, ptr %to
  br i1 %in.place, label %multiply, label %row
row:
  %r = phi i64 [0, %entry], [%r1, %row.end]
  %r.off = mul i64 %r, %from_row
  %r.from = getelementptr i8, ptr %a, i64 %r.off
  %r.to.off = mul i64 %r, %inner
  %r.to = getelementptr {self.kind}, ptr %to, i64 %r.to.off
  br label %element
element:
  %k = phi i64 [0, %row], [%k1, %element]
  %k.off = mul i64 %k, %from_column
  %k.from = getelementptr i8, ptr %r.from, i64 %k.off
  %value = load {self.kind}, ptr %k.from
  %k.to = getelementptr {self.kind}, ptr %r.to, i64 %k
  store {self.kind} %value, ptr %k.to
  %k1 = add nuw nsw i64 %k, 1
  %k.more = icmp slt i64 %k1, %inner
  br i1 %k.more, label %element, label %row.end{AS_WRITTEN}
row.end:
  %r1 = add nuw nsw i64 %r, 1
  %r.more = icmp slt i64 %r1, %rows
  br i1 %r.more, label %row, label %multiply{AS_WRITTEN}
multiply:
  %is.packed = icmp eq i64 %edge, 0
  %room = getelementptr i8, ptr %scratch, i64 %edge
  %work = select i1 %is.packed, ptr null, ptr %room
  call void @fg_products(i64 %count, ptr %left, i64 %a_step, i64 %a_row, ptr %b, i64 %b_step, i64 %b_row,
      i64 %b_column, ptr %c, i64 %c_step, i64 %c_row, i64 %rows, i64 %columns, i64 %inner, ptr %scratch,
      ptr %work)
  ret void
}}
"""

    def tasks(self) -> str:
        """``fg_pack_task`` and ``fg_rows_task``: parts of a product's two jobs."""
        return f"""
define void @fg_pack_task(ptr %job, i64 %index, i64 %slot) {{
{_words("job", JOB_OWN, PACK_WORDS, "b", "packed")}
  %first = mul i64 %index, %step
  %left = sub i64 %columns, %first
  %count = call i64 @llvm.smin.i64(i64 %left, i64 %step)
  %b.along = mul i64 %first, %b_column
  %b.off = add i64 %b_start, %b.along
  %b.from = getelementptr i8, ptr %b, i64 %b.off
  %to.off = mul i64 %first, %inner
  %to = getelementptr {self.kind}, ptr %packed, i64 %to.off
  call void @fg_pack(ptr %b.from, i64 %b_row, i64 %b_column, ptr %to, i64 %count, i64 %inner)
  ret void
}}

define void @fg_rows_task(ptr %job, i64 %index, i64 %slot) {{
{_words("job", JOB_OWN, ROWS_WORDS, "a", "packed", "c")}
  %first = mul i64 %index, %height
  %left = sub i64 %rows, %first
  %count = call i64 @llvm.smin.i64(i64 %left, i64 %height)
  %a.begin = getelementptr i8, ptr %a, i64 %a_start
  %a.off = mul i64 %first, %inner
  %a.from = getelementptr {self.kind}, ptr %a.begin, i64 %a.off
  %c.off = mul i64 %first, %columns
  %c.to = getelementptr {self.kind}, ptr %c, i64 %c.off
  %edge.off = mul i64 %slot, %room
  %edge.at = add i64 %scratch, %edge.off
  %edge = inttoptr i64 %edge.at to ptr
  call void @fg_multiply(ptr %a.from, i64 %inner, ptr %packed, ptr %c.to, i64 %columns, i64 %count,
      i64 %columns, i64 %inner, ptr %edge)
  ret void
}}
"""


def _words(source: str, first: int, names: Sequence[str], *pointers: str) -> str:
    """Lines that load words by their names, from the ``first`` on, and the addresses behind them."""
    kinds = [(name, "i64") for name in names] + [(name, "ptr") for name in pointers]
    return "\n".join(
        f"  %{name}.at = getelementptr i64, ptr %{source}, i64 {at}\n"
        f"  %{name} = load {kind}, ptr %{name}.at"
        for at, (name, kind) in enumerate(kinds, first)
    )
