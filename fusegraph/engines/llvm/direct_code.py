"""The function that direct calls are, in IR, and the words by which it knows what to run.

In: nothing. Out: ``CODE``, whose ``fg_call`` has the interpreter's convention for a method with an array
of arguments. Its ``self`` is a list that begins with an array of words; it returns a new reference.
"""

from __future__ import annotations

from fusegraph.engines.llvm import jobs
from fusegraph.engines.llvm.headers import (
    ACCESSORS,
    DATA,
    DESCRIPTION,
    DIMENSIONS,
    FLAGS,
    ITEMS,
    RANK,
    STRIDES,
    TYPE,
)
from fusegraph.engines.llvm.jobs import JOB_RANGES, RANGE

# Words of a call. A name that ends in AT is an address; the functions of the interpreter come last.
(
    ARGUMENTS, CAPTURED, CAPTURED_AT, CHECKS_AT, ARRAY_TYPE, NOTHING, RESULTS, MADE, OUTLETS_AT, SEVERAL,
    JOBS, RECORDS_AT, MOST_WORDS, MOST_THREADS, SCRATCH_BYTES, SCRATCH_PLACE, AVOIDED_AT, MOVE, EPOCH,
    EPOCH_AT, CALLS, PROCESSOR_AT, LOCK_AT, INCREF, DECREF, CALL, SAVE, RESTORE, TUPLE, SET_ITEM, SLEEP,
    HEAD,
) = range(32)  # fmt: skip
# Words of the record of a job.
(
    TEMPLATE_AT, JOB_WORDS, SCRATCH_WORD, OPERANDS, PLACES_AT, THREADS, BOXES_AT, WAKE, RECORD
) = range(9)  # fmt: skip
# Words of the check of an array: its dtype, how many axes it has, the flags that it must have and how
# many of its strides are compared. Behind them its shape, and these strides.
CHECK_DTYPE, CHECK_RANK, CHECK_FLAGS, CHECK_STRIDES, CHECK_HEAD = range(5)
REST = 50  # microseconds that a caller sleeps who has looked for long enough


CODE = f"""
{ACCESSORS}
{jobs.CODE}
define internal i1 @equal(ptr %found, ptr %wanted, i64 %count) {{
entry:
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %look]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %look, label %done
look:
  %one = call i64 @word(ptr %found, i64 %k)
  %other = call i64 @word(ptr %wanted, i64 %k)
  %k1 = add i64 %k, 1
  %same = icmp eq i64 %one, %other
  br i1 %same, label %next, label %done
done:
  %all = phi i1 [true, %next], [false, %look]
  ret i1 %all
}}

define internal i1 @matches(ptr %argument, ptr %check, ptr %array.type) {{
entry:
  %type = call ptr @field(ptr %argument, i64 {TYPE})
  %is.array = icmp eq ptr %type, %array.type
  br i1 %is.array, label %array, label %no
array:
  %dtype = call ptr @field(ptr %argument, i64 {DESCRIPTION})
  %dtype.wanted = call ptr @item(ptr %check, i64 {CHECK_DTYPE})
  %same.dtype = icmp eq ptr %dtype, %dtype.wanted
  %rank.at = getelementptr i8, ptr %argument, i64 {RANK}
  %rank32 = load i32, ptr %rank.at
  %rank = sext i32 %rank32 to i64
  %rank.wanted = call i64 @word(ptr %check, i64 {CHECK_RANK})
  %same.rank = icmp eq i64 %rank, %rank.wanted
  %flags.at = getelementptr i8, ptr %argument, i64 {FLAGS}
  %flags32 = load i32, ptr %flags.at
  %flags = sext i32 %flags32 to i64
  %flags.wanted = call i64 @word(ptr %check, i64 {CHECK_FLAGS})
  %flags.there = and i64 %flags, %flags.wanted
  %has.flags = icmp eq i64 %flags.there, %flags.wanted
  %alike = and i1 %same.dtype, %same.rank
  %fits = and i1 %alike, %has.flags
  br i1 %fits, label %axes, label %no
axes:
  %shape = call ptr @field(ptr %argument, i64 {DIMENSIONS})
  %shape.wanted = getelementptr i64, ptr %check, i64 {CHECK_HEAD}
  %same.shape = call i1 @equal(ptr %shape, ptr %shape.wanted, i64 %rank)
  br i1 %same.shape, label %lying, label %no
lying:
  %strides = call ptr @field(ptr %argument, i64 {STRIDES})
  %strides.wanted = getelementptr i64, ptr %shape.wanted, i64 %rank
  %compared = call i64 @word(ptr %check, i64 {CHECK_STRIDES})
  %same.strides = call i1 @equal(ptr %strides, ptr %strides.wanted, i64 %compared)
  ret i1 %same.strides
no:
  ret i1 false
}}

define internal void @drop(ptr %w, ptr %objects, i64 %count) {{
entry:
  %decref = call ptr @item(ptr %w, i64 {DECREF})
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %one]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %one, label %done
one:
  %object = call ptr @item(ptr %objects, i64 %k)
  call void %decref(ptr %object)
  %k1 = add i64 %k, 1
  br label %next
done:
  ret void
}}

define internal i1 @asked(ptr %w, ptr %callable) {{
entry:
  %call = call ptr @item(ptr %w, i64 {CALL})
  %answer = call ptr %call(ptr %callable)
  %failed = icmp eq ptr %answer, null
  br i1 %failed, label %no, label %yes
yes:
  %decref = call ptr @item(ptr %w, i64 {DECREF})
  call void %decref(ptr %answer)
  ret i1 true
no:
  ret i1 false
}}

define internal i1 @make_room(ptr %w) {{
entry:
  %processor = call ptr @item(ptr %w, i64 {PROCESSOR_AT})
  %known = icmp ne ptr %processor, null
  br i1 %known, label %look, label %good
look:
  %here32 = call i32 %processor()
  %here = sext i32 %here32 to i64
  %avoided.at = call ptr @item(ptr %w, i64 {AVOIDED_AT})
  %avoided = load i64, ptr %avoided.at
  %stayed = icmp eq i64 %here, %avoided
  br i1 %stayed, label %good, label %move
move:
  %avoid = call ptr @item(ptr %w, i64 {MOVE})
  %moved = call i1 @asked(ptr %w, ptr %avoid)
  ret i1 %moved
good:
  ret i1 true
}}

define internal i1 @run(ptr %w, ptr %record, ptr %job) {{
entry:
  %threads = call i64 @word(ptr %record, i64 {THREADS})
  %helpers = sub i64 %threads, 1
  %boxes = call ptr @item(ptr %record, i64 {BOXES_AT})
  %save = call ptr @item(ptr %w, i64 {SAVE})
  %restore = call ptr @item(ptr %w, i64 {RESTORE})
  %sleep = call ptr @item(ptr %w, i64 {SLEEP})
  %lock = call ptr @item(ptr %w, i64 {LOCK_AT})
  %asleep = call i64 @fg_begin(ptr %job, ptr %boxes, i64 %helpers)
  %some = icmp sgt i64 %asleep, 0
  br i1 %some, label %wake, label %awake
wake:
  %ring = call ptr @item(ptr %record, i64 {WAKE})
  %woken = call i1 @asked(ptr %w, ptr %ring)
  br label %awake
awake:
  %good = phi i1 [true, %entry], [%woken, %wake]
  %state = call ptr %save()
  br label %complete
complete:
  %answer = call i32 @fg_complete(ptr %job, ptr %boxes, i64 %helpers, i64 {jobs.LOOKS})
  %done = icmp ne i32 %answer, 0
  br i1 %done, label %finished, label %rest
rest:
  %late = call i32 %sleep(ptr %lock, i64 {REST}, i32 0)
  br label %complete
finished:
  call void %restore(ptr %state)
  ret i1 %good
}}

define internal i1 @one(ptr %w, ptr %record, ptr %arrays, ptr %job, ptr %ranges, ptr %scratch) {{
entry:
  %job.words = call i64 @word(ptr %record, i64 {JOB_WORDS})
  %template = call ptr @item(ptr %record, i64 {TEMPLATE_AT})
  %job.bytes = mul i64 %job.words, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %job, ptr %template, i64 %job.bytes, i1 false)
  %ranges.at = getelementptr ptr, ptr %job, i64 {JOB_RANGES}
  store ptr %ranges, ptr %ranges.at
  %scratch.word = call i64 @word(ptr %record, i64 {SCRATCH_WORD})
  %scratch.at = getelementptr ptr, ptr %job, i64 %scratch.word
  store ptr %scratch, ptr %scratch.at
  %operands = call i64 @word(ptr %record, i64 {OPERANDS})
  %places = call ptr @item(ptr %record, i64 {PLACES_AT})
  %before = sub i64 %job.words, %operands
  br label %operand
operand:
  %k = phi i64 [0, %entry], [%k1, %put]
  %unplaced = icmp slt i64 %k, %operands
  br i1 %unplaced, label %put, label %prepare
put:
  %place = call i64 @word(ptr %places, i64 %k)
  %array = call ptr @item(ptr %arrays, i64 %place)
  %data = call ptr @field(ptr %array, i64 {DATA})
  %word.at = add i64 %before, %k
  %pointer.at = getelementptr ptr, ptr %job, i64 %word.at
  store ptr %data, ptr %pointer.at
  %k1 = add i64 %k, 1
  br label %operand
prepare:
  %threads = call i64 @word(ptr %record, i64 {THREADS})
  %several.threads = icmp sgt i64 %threads, 1
  br i1 %several.threads, label %make.room, label %execute
make.room:
  %room = call i1 @make_room(ptr %w)
  br i1 %room, label %execute, label %failed
execute:
  %ran = call i1 @run(ptr %w, ptr %record, ptr %job)
  ret i1 %ran
failed:
  ret i1 false
}}

define ptr @fg_call(ptr %self, ptr %args, i64 %nargs) {{
entry:
  %self.items = call ptr @field(ptr %self, i64 {ITEMS})
  %self.words = call ptr @item(ptr %self.items, i64 0)
  %w = call ptr @field(ptr %self.words, i64 {DATA})
  %wanted = call i64 @word(ptr %w, i64 {ARGUMENTS})
  %enough = icmp eq i64 %nargs, %wanted
  %epoch.at = call ptr @item(ptr %w, i64 {EPOCH_AT})
  %epoch.now = load i64, ptr %epoch.at
  %epoch = call i64 @word(ptr %w, i64 {EPOCH})
  %same.process = icmp eq i64 %epoch.now, %epoch
  %array.type = call ptr @item(ptr %w, i64 {ARRAY_TYPE})
  %checks = call ptr @item(ptr %w, i64 {CHECKS_AT})
  %call = call ptr @item(ptr %w, i64 {CALL})
  %outlets = call ptr @item(ptr %w, i64 {OUTLETS_AT})
  %results = call i64 @word(ptr %w, i64 {RESULTS})
  %count = call i64 @word(ptr %w, i64 {MADE})
  %captured = call i64 @word(ptr %w, i64 {CAPTURED})
  %given = add i64 %wanted, %captured
  %all = add i64 %given, %count
  %arrays = alloca ptr, i64 %all
  %made = getelementptr ptr, ptr %arrays, i64 %given
  %go = and i1 %enough, %same.process
  br i1 %go, label %gather, label %miss
gather:
  %args.bytes = mul i64 %nargs, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %arrays, ptr %args, i64 %args.bytes, i1 false)
  %captured.to = getelementptr ptr, ptr %arrays, i64 %nargs
  %captured.from = call ptr @item(ptr %w, i64 {CAPTURED_AT})
  %captured.bytes = mul i64 %captured, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %captured.to, ptr %captured.from, i64 %captured.bytes, i1 false)
  br label %argument
argument:
  %a = phi i64 [0, %gather], [%a1, %good]
  %check = phi ptr [%checks, %gather], [%check1, %good]
  %more = icmp slt i64 %a, %given
  br i1 %more, label %look, label %outlet
look:
  %array = call ptr @item(ptr %arrays, i64 %a)
  %fits = call i1 @matches(ptr %array, ptr %check, ptr %array.type)
  %rank = call i64 @word(ptr %check, i64 {CHECK_RANK})
  %compared = call i64 @word(ptr %check, i64 {CHECK_STRIDES})
  %axes = add i64 %rank, %compared
  %length = add i64 %axes, {CHECK_HEAD}
  %check1 = getelementptr i64, ptr %check, i64 %length
  %a1 = add i64 %a, 1
  br i1 %fits, label %good, label %miss
good:
  br label %argument
miss:
  %nothing = call ptr @item(ptr %w, i64 {NOTHING})
  %incref = call ptr @item(ptr %w, i64 {INCREF})
  call void %incref(ptr %nothing)
  ret ptr %nothing
outlet:
  %r = phi i64 [0, %argument], [%r1, %made.one]
  %unmade = icmp slt i64 %r, %count
  br i1 %unmade, label %make, label %room
make:
  %outlet.at = call ptr @item(ptr %outlets, i64 %r)
  %result = call ptr %call(ptr %outlet.at)
  %none = icmp eq ptr %result, null
  br i1 %none, label %failed, label %made.one
made.one:
  %result.at = getelementptr ptr, ptr %made, i64 %r
  store ptr %result, ptr %result.at
  %r1 = add i64 %r, 1
  br label %outlet
failed:
  %so.far = phi i64 [%r, %make], [%count, %work]
  call void @drop(ptr %w, ptr %made, i64 %so.far)
  ret ptr null
room:
  %most.words = call i64 @word(ptr %w, i64 {MOST_WORDS})
  %job = alloca i64, i64 %most.words, align 64
  %most.threads = call i64 @word(ptr %w, i64 {MOST_THREADS})
  %range.words = mul i64 %most.threads, {RANGE}
  %ranges = alloca i64, i64 %range.words, align 64
  %scratch.bytes = call i64 @word(ptr %w, i64 {SCRATCH_BYTES})
  %stack = alloca i8, i64 %scratch.bytes, align 64
  %scratch.place = call i64 @word(ptr %w, i64 {SCRATCH_PLACE})
  %small = icmp slt i64 %scratch.place, 0
  br i1 %small, label %begin, label %borrow
borrow:
  %lent = call ptr @item(ptr %made, i64 %scratch.place)
  %lent.data = call ptr @field(ptr %lent, i64 {DATA})
  %lent.word = ptrtoint ptr %lent.data to i64
  %lent.up = add i64 %lent.word, 63
  %lent.line = and i64 %lent.up, -64
  %lent.at = inttoptr i64 %lent.line to ptr
  br label %begin
begin:
  %scratch = phi ptr [%stack, %room], [%lent.at, %borrow]
  %records = call ptr @item(ptr %w, i64 {RECORDS_AT})
  %jobs = call i64 @word(ptr %w, i64 {JOBS})
  br label %next
next:
  %j = phi i64 [0, %begin], [%j1, %work]
  %waiting = icmp slt i64 %j, %jobs
  br i1 %waiting, label %work, label %done
work:
  %record.off = mul i64 %j, {RECORD}
  %record = getelementptr i64, ptr %records, i64 %record.off
  %ran = call i1 @one(ptr %w, ptr %record, ptr %arrays, ptr %job, ptr %ranges, ptr %scratch)
  %j1 = add i64 %j, 1
  br i1 %ran, label %next, label %failed
done:
  %spare = getelementptr ptr, ptr %made, i64 %results
  %spares = sub i64 %count, %results
  call void @drop(ptr %w, ptr %spare, i64 %spares)
  %calls = call i64 @word(ptr %w, i64 {CALLS})
  %calls1 = add i64 %calls, 1
  %calls.at = getelementptr i64, ptr %w, i64 {CALLS}
  store i64 %calls1, ptr %calls.at
  %several = call i64 @word(ptr %w, i64 {SEVERAL})
  %is.one = icmp eq i64 %several, 0
  br i1 %is.one, label %single, label %tuple
single:
  %first = call ptr @item(ptr %made, i64 0)
  ret ptr %first
tuple:
  %new = call ptr @item(ptr %w, i64 {TUPLE})
  %set = call ptr @item(ptr %w, i64 {SET_ITEM})
  %together = call ptr %new(i64 %results)
  %no.memory = icmp eq ptr %together, null
  br i1 %no.memory, label %none.left, label %fill
none.left:
  call void @drop(ptr %w, ptr %made, i64 %results)
  ret ptr null
fill:
  %t = phi i64 [0, %tuple], [%t1, %filling]
  %unfilled = icmp slt i64 %t, %results
  br i1 %unfilled, label %filling, label %full
filling:
  %member = call ptr @item(ptr %made, i64 %t)
  %answer = call i32 %set(ptr %together, i64 %t, ptr %member)
  %t1 = add i64 %t, 1
  br label %fill
full:
  ret ptr %together
}}

declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""
