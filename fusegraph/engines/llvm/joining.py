"""Partial results put together in compiled code: a job that follows the one that made them.

In: a reduction whose panels each gave a cell. Out: ``Work`` over the cells and the result. It adds up in
the order of ``reductions.combine``, by halves, so that a result is the same whichever of them runs.
"""

from __future__ import annotations

from functools import cache

from fusegraph.engines.llvm import compiler
from fusegraph.engines.llvm.casts import cast
from fusegraph.engines.llvm.codegen import evaluate
from fusegraph.engines.llvm.headers import ACCESSORS
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.jobs import JOB_OWN, Work
from fusegraph.engines.llvm.values import Parts, from_memory, memory_type, to_memory
from fusegraph.graph import DType
from fusegraph.ops import OPS

# Words of the job before the addresses of cells and result: how many cells, elements of one, scratch.
COUNT, WIDTH, SCRATCH, CELLS, RESULT = range(JOB_OWN, JOB_OWN + 5)


def join_work(name: str, kept: DType, result: DType, count: int, width: int) -> Work:
    """The job that puts ``count`` cells of ``width`` elements together; cells are overwritten.

    Parameters
    ----------
    name : str
        The reduction's row.
    kept, result : numpy.dtype
        Of the cells, and of the result.
    count, width : int
    """
    task = compiler.address_of(_text(name, kept, result), "fg_join")
    return Work(task, 1, (count, width, 0), SCRATCH, 0, None)


@cache
def _text(name: str, kept: DType, result: DType) -> str:
    declared: dict[str, None] = {}
    cell, out = memory_type(kept), memory_type(result)

    def value(e: Emitter, name: str) -> Parts:
        return from_memory(e, (Value(cell, name),), kept)

    def stored(e: Emitter, found: Parts, dtype: DType, pointer: str) -> list[str]:
        """The lines of ``e``, and one that stores what they found."""
        (x,) = to_memory(e, found, dtype)
        declared.update(e.declared)
        return [*e.lines, f"  store {memory_type(dtype)} {x.name}, ptr {pointer}"]

    def together(prefix: str) -> list[str]:
        """Lines that put ``second`` to what ``first`` points to."""
        e = Emitter(f"{prefix}v")
        operands = (value(e, f"%{prefix}.a"), value(e, f"%{prefix}.b"))
        found = evaluate(e, OPS[name].combines, (kept, kept), kept, operands)
        return stored(e, found, kept, f"%{prefix}.a.at")

    def converted() -> list[str]:
        e = Emitter("lastv")
        return stored(e, cast(e, value(e, "%last.a"), kept, result), result, "%last.b.at")

    lines = [
        *_loop("pair", "halve", cell, "%second", "%total", "rest", together("pair")),
        "rest:",
        "  %odd = and i64 %n, 1",
        "  %is.odd = icmp ne i64 %odd, 0",
        f"  %third = getelementptr {cell}, ptr %second, i64 %total",
        "  br i1 %is.odd, label %more, label %joined",
        *_loop("more", "rest", cell, "%third", "%width", "joined", together("more")),
        "joined:",
        "  br label %level",
        *_loop("last", "level", cell, "%result", "%width", "done", converted(), out),
    ]
    body = "\n".join(lines)
    return f"""
{ACCESSORS}
define void @fg_join(ptr %job, i64 %index, i64 %slot) {{
entry:
  %count = call i64 @word(ptr %job, i64 {COUNT})
  %width = call i64 @word(ptr %job, i64 {WIDTH})
  %cells = call ptr @item(ptr %job, i64 {CELLS})
  %result = call ptr @item(ptr %job, i64 {RESULT})
  br label %level
level:
  %n = phi i64 [%count, %entry], [%half, %joined]
  %several = icmp sgt i64 %n, 1
  br i1 %several, label %halve, label %last
halve:
  %half = lshr i64 %n, 1
  %total = mul i64 %half, %width
  %second = getelementptr {cell}, ptr %cells, i64 %total
  br label %pair
{body}
done:
  ret void
}}
""" + "\n".join(declared)


def _loop(
    name: str,
    before: str,
    cell: str,
    others: str,
    count: str,
    after: str,
    body: list[str],
    second: str = "",
) -> list[str]:
    """A loop over ``count`` elements of ``%cells`` and ``others``: ``%name.a`` and ``%name.b``.

    They have the IR type ``cell``; where the other has a type of its own, ``second``, it is written by
    ``body`` and not read.
    """
    i, first, other = f"%{name}.i", f"%{name}.a", f"%{name}.b"
    read = [] if second else [f"  {other} = load {cell}, ptr {other}.at"]
    return [
        f"{name}:",
        f"  {i} = phi i64 [0, %{before}], [{i}1, %{name}]",
        f"  {first}.at = getelementptr {cell}, ptr %cells, i64 {i}",
        f"  {other}.at = getelementptr {second or cell}, ptr {others}, i64 {i}",
        f"  {first} = load {cell}, ptr {first}.at",
        *read,
        *body,
        f"  {i}1 = add nuw nsw i64 {i}, 1",
        f"  %{name}.left = icmp slt i64 {i}1, {count}",
        f"  br i1 %{name}.left, label %{name}, label %{after}",
    ]
