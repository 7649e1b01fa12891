"""The flat loop: a kernel called once on dense arrays of one size, or block by block in a job.

In: nothing. Out: ``FLAT``, IR of functions that every kernel shares, so that a kernel itself is one loop
and compiles fast. ``fg_flat(plan, file)`` takes a list of arrays (its ``id``), checks that they are
dense and of one size, and calls the kernel; it returns 1 where they are not. ``fg_flat_job`` writes down
the same work as a job for several threads, and ``fg_flat_task`` is a task of it.

``fg_streamed_task`` is the same task, whose results go to memory past the caches (see ``streaming``).
Where they begin with cache lines, the kernel stores them so: the triad of 32,000,000 float32 took 7.2 ms
by way of scratch, and takes 5.0. Else it writes tiles to scratch in L1, and those are copied.
"""

from __future__ import annotations

from fusegraph.engines.llvm.headers import ACCESSORS, DATA, DENSE, FLAGS, ITEMS
from fusegraph.engines.llvm.jobs import JOB_OWN
from fusegraph.engines.llvm.streaming import STREAM

# Words of a plan before its operands, two words each (place in the file, bytes from element to element):
# kernel, operands, place of a result, and the kernel that stores past the caches.
PLAN_PAST, PLAN_HEAD = 3, 4
# Words of a flat kernel's job, behind those that ``jobs`` keeps.
JOB_SIZE, JOB_BLOCK, JOB_PLAN, JOB_TILE, JOB_SCRATCH, JOB_STEP, JOB_HEAD = range(
    JOB_OWN, JOB_OWN + 7
)
STREAMED_BYTES = 8 << 10  # of the results of a tile: GELU took 11.5 ms with 8 kB, 15.5 with 16

FLAT = f"""
{ACCESSORS}
define internal i64 @gather(ptr %plan, ptr %file, ptr %pointers) {{
entry:
  %items = call ptr @field(ptr %file, i64 {ITEMS})
  %count = call i64 @word(ptr %plan, i64 1)
  %place.out = call i64 @word(ptr %plan, i64 2)
  %out = call ptr @item(ptr %items, i64 %place.out)
  %size = call i64 @size(ptr %out)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %accept]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %look, label %done
look:
  %at0 = mul i64 %k, 2
  %at = add i64 %at0, {PLAN_HEAD}
  %at1 = add i64 %at, 1
  %place = call i64 @word(ptr %plan, i64 %at)
  %step = call i64 @word(ptr %plan, i64 %at1)
  %array = call ptr @item(ptr %items, i64 %place)
  %data = call ptr @field(ptr %array, i64 {DATA})
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %data, ptr %pointer.at
  %is.scalar = icmp eq i64 %step, 0
  br i1 %is.scalar, label %accept, label %check
check:
  %flags.at = getelementptr i8, ptr %array, i64 {FLAGS}
  %flags = load i32, ptr %flags.at
  %dense = and i32 %flags, {DENSE}
  %is.dense = icmp eq i32 %dense, {DENSE}
  %its.size = call i64 @size(ptr %array)
  %same = icmp eq i64 %its.size, %size
  %fits = and i1 %is.dense, %same
  br i1 %fits, label %accept, label %refuse
accept:
  %k1 = add i64 %k, 1
  br label %next
refuse:
  ret i64 -1
done:
  ret i64 %size
}}

define i32 @fg_flat(ptr %plan, ptr %file) {{
entry:
  %count = call i64 @word(ptr %plan, i64 1)
  %pointers = alloca ptr, i64 %count
  %size = call i64 @gather(ptr %plan, ptr %file, ptr %pointers)
  %refused = icmp slt i64 %size, 0
  br i1 %refused, label %refuse, label %run
run:
  %kernel = call ptr @item(ptr %plan, i64 0)
  call void %kernel(ptr %pointers, i64 %size)
  ret i32 0
refuse:
  ret i32 1
}}

define i32 @fg_flat_job(ptr %plan, ptr %file, ptr %job) {{
  %pointers = getelementptr i64, ptr %job, i64 {JOB_HEAD}
  %size = call i64 @gather(ptr %plan, ptr %file, ptr %pointers)
  %size.at = getelementptr i64, ptr %job, i64 {JOB_SIZE}
  store i64 %size, ptr %size.at
  %plan.at = getelementptr i64, ptr %job, i64 {JOB_PLAN}
  store ptr %plan, ptr %plan.at
  %refused = icmp slt i64 %size, 0
  %answer = zext i1 %refused to i32
  ret i32 %answer
}}

define internal void @block(ptr %job, ptr %kernel, i64 %start, i64 %length) {{
entry:
  %plan = call ptr @item(ptr %job, i64 {JOB_PLAN})
  %count = call i64 @word(ptr %plan, i64 1)
  %pointers = alloca ptr, i64 %count
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %place]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %place, label %run
place:
  %pointer = call ptr @begin(ptr %job, i64 %k, i64 %start)
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %pointer, ptr %pointer.at
  %k1 = add i64 %k, 1
  br label %next
run:
  call void %kernel(ptr %pointers, i64 %length)
  ret void
}}

define internal ptr @begin(ptr %job, i64 %k, i64 %start) alwaysinline {{
  %plan = call ptr @item(ptr %job, i64 {JOB_PLAN})
  %at = add i64 %k, {JOB_HEAD}
  %base = call ptr @item(ptr %job, i64 %at)
  %step0 = mul i64 %k, 2
  %step.at = add i64 %step0, {PLAN_HEAD + 1}
  %step = call i64 @word(ptr %plan, i64 %step.at)
  %offset = mul i64 %start, %step
  %pointer = getelementptr i8, ptr %base, i64 %offset
  ret ptr %pointer
}}

define void @fg_flat_task(ptr %job, i64 %index, i64 %slot) {{
  %size = call i64 @word(ptr %job, i64 {JOB_SIZE})
  %block = call i64 @word(ptr %job, i64 {JOB_BLOCK})
  %plan = call ptr @item(ptr %job, i64 {JOB_PLAN})
  %kernel = call ptr @item(ptr %plan, i64 0)
  %start = mul i64 %index, %block
  %after = sub i64 %size, %start
  %length = call i64 @llvm.smin.i64(i64 %block, i64 %after)
  call void @block(ptr %job, ptr %kernel, i64 %start, i64 %length)
  ret void
}}

define void @fg_streamed_task(ptr %job, i64 %index, i64 %slot) {{
entry:
  %size = call i64 @word(ptr %job, i64 {JOB_SIZE})
  %block = call i64 @word(ptr %job, i64 {JOB_BLOCK})
  %plan = call ptr @item(ptr %job, i64 {JOB_PLAN})
  %tile = call i64 @word(ptr %job, i64 {JOB_TILE})
  %scratches = call ptr @item(ptr %job, i64 {JOB_SCRATCH})
  %scratch.step = call i64 @word(ptr %job, i64 {JOB_STEP})
  %kernel = call ptr @item(ptr %plan, i64 0)
  %count = call i64 @word(ptr %plan, i64 1)
  %first.out = call i64 @word(ptr %plan, i64 2)
  %pointers = alloca ptr, i64 %count
  %mine = mul i64 %slot, %scratch.step
  %scratch = getelementptr i8, ptr %scratches, i64 %mine
  %start = mul i64 %index, %block
  %after = add i64 %start, %block
  %end = call i64 @llvm.smin.i64(i64 %after, i64 %size)
  br label %line
line:
  %l = phi i64 [%first.out, %entry], [%l1, %look]
  %bits = phi i64 [0, %entry], [%bits1, %look]
  %lines.left = icmp slt i64 %l, %count
  br i1 %lines.left, label %look, label %looked
look:
  %result.begin = call ptr @begin(ptr %job, i64 %l, i64 %start)
  %address = ptrtoint ptr %result.begin to i64
  %bits1 = or i64 %bits, %address
  %l1 = add i64 %l, 1
  br label %line
looked:
  %low = and i64 %bits, 63
  %lines = icmp eq i64 %low, 0
  br i1 %lines, label %straight, label %tile.next
straight:
  %past = call ptr @item(ptr %plan, i64 {PLAN_PAST})
  %whole = sub i64 %end, %start
  call void @block(ptr %job, ptr %past, i64 %start, i64 %whole)
  br label %done
tile.next:
  %at = phi i64 [%start, %looked], [%at1, %stored]
  %unfinished = icmp slt i64 %at, %end
  br i1 %unfinished, label %begin, label %done
begin:
  %to.end = sub i64 %end, %at
  %length = call i64 @llvm.smin.i64(i64 %tile, i64 %to.end)
  br label %next
next:
  %k = phi i64 [0, %begin], [%k1, %place]
  %used = phi i64 [0, %begin], [%used1, %place]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %place, label %run
place:
  %base.at = add i64 %k, {JOB_HEAD}
  %base = call ptr @item(ptr %job, i64 %base.at)
  %step0 = mul i64 %k, 2
  %step.at = add i64 %step0, {PLAN_HEAD + 1}
  %step = call i64 @word(ptr %plan, i64 %step.at)
  %offset = mul i64 %at, %step
  %direct = getelementptr i8, ptr %base, i64 %offset
  %own = getelementptr i8, ptr %scratch, i64 %used
  %is.result = icmp sge i64 %k, %first.out
  %pointer = select i1 %is.result, ptr %own, ptr %direct
  %taken = mul i64 %tile, %step
  %more = select i1 %is.result, i64 %taken, i64 0
  %used1 = add i64 %used, %more
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %pointer, ptr %pointer.at
  %k1 = add i64 %k, 1
  br label %next
run:
  call void %kernel(ptr %pointers, i64 %length)
  br label %store
store:
  %r = phi i64 [%first.out, %run], [%r1, %result]
  %results.left = icmp slt i64 %r, %count
  br i1 %results.left, label %result, label %stored
result:
  %r.base.at = add i64 %r, {JOB_HEAD}
  %r.base = call ptr @item(ptr %job, i64 %r.base.at)
  %r.step0 = mul i64 %r, 2
  %r.step.at = add i64 %r.step0, {PLAN_HEAD + 1}
  %r.step = call i64 @word(ptr %plan, i64 %r.step.at)
  %r.offset = mul i64 %at, %r.step
  %to = getelementptr i8, ptr %r.base, i64 %r.offset
  %from.at = getelementptr ptr, ptr %pointers, i64 %r
  %from = load ptr, ptr %from.at
  %bytes = mul i64 %length, %r.step
  call void @stream(ptr %to, ptr %from, i64 %bytes)
  %r1 = add i64 %r, 1
  br label %store
stored:
  %at1 = add i64 %at, %tile
  br label %tile.next
done:
  fence seq_cst
  ret void
}}

{STREAM}
declare i64 @llvm.smin.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""
