"""Where the fields of NumPy's arrays and Python's lists lie, for machine code that reads them there.

In: nothing. Out: offsets; ``ACCESSORS``, IR that reads fields and words; ``arrays_lie_as_expected``,
which says whether arrays may be read in place; and ``imitation``, which stands in for a list where they
may not. Reading data pointers through ``array.ctypes.data`` would cost 1 us an array; reading them where
they lie costs nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fusegraph.engines.base import Array

HEADER = object.__basicsize__  # bytes of a Python object before its own fields
# NumPy's PyArrayObject_fields, fixed by its ABI: data, nd, dimensions, strides, base, descr, flags.
DATA, RANK, DIMENSIONS, STRIDES, DESCRIPTION, FLAGS = (HEADER + at for at in (0, 8, 16, 24, 40, 48))
TYPE = HEADER - 8  # of any object: its type is the last field of what all objects have
ITEMS = HEADER + 8  # of a list: after its length
ALIGNED = 0x0100  # NPY_ARRAY_ALIGNED
DENSE = 0x0001 | ALIGNED  # NPY_ARRAY_C_CONTIGUOUS too

ACCESSORS = f"""
define internal i64 @word(ptr %words, i64 %at) alwaysinline {{
  %p = getelementptr i64, ptr %words, i64 %at
  %v = load i64, ptr %p
  ret i64 %v
}}

define internal ptr @field(ptr %object, i64 %at) alwaysinline {{
  %p = getelementptr i8, ptr %object, i64 %at
  %v = load ptr, ptr %p
  ret ptr %v
}}

define internal ptr @item(ptr %items, i64 %at) alwaysinline {{
  %p = getelementptr ptr, ptr %items, i64 %at
  %v = load ptr, ptr %p
  ret ptr %v
}}

define internal i64 @size(ptr %array) {{
entry:
  %rank.at = getelementptr i8, ptr %array, i64 {RANK}
  %rank32 = load i32, ptr %rank.at
  %rank = sext i32 %rank32 to i64
  %dimensions = call ptr @field(ptr %array, i64 {DIMENSIONS})
  br label %next
next:
  %axis = phi i64 [0, %entry], [%axis1, %more]
  %size = phi i64 [1, %entry], [%size1, %more]
  %done = icmp sge i64 %axis, %rank
  br i1 %done, label %found, label %more
more:
  %length = call i64 @word(ptr %dimensions, i64 %axis)
  %size1 = mul i64 %size, %length
  %axis1 = add i64 %axis, 1
  br label %next
found:
  ret i64 %size
}}
"""


@cache
def arrays_lie_as_expected() -> bool:
    """Do arrays and lists of this interpreter have their fields where machine code reads them?

    Every array here agrees with what NumPy itself says; elsewhere (another interpreter, another ABI)
    ``imitation`` stands in for the list.
    """
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    samples = [
        base,
        base[::2, 1::3],
        base.T,
        base[0, 0:0],
        np.array(1.5),
        np.broadcast_to(base[0], (3, 6)),
    ]
    try:
        if list.__basicsize__ < ITEMS + 8 or base.__class__.__basicsize__ < FLAGS + 4:
            return False
        items = ctypes.c_void_p.from_address(id(samples) + ITEMS).value
        found = (ctypes.c_void_p * len(samples)).from_address(items or 0)
        if list(found) != [id(a) for a in samples]:
            return False
        return all(_lies_as_expected(a) for a in samples)
    except (TypeError, ValueError):
        return False


def _lies_as_expected(array: Array) -> bool:
    address, rank = id(array), array.ndim
    words = ctypes.c_ssize_t * rank
    dense = DENSE if array.flags.c_contiguous and array.flags.aligned else 0
    if ctypes.c_int.from_address(address + RANK).value != rank:
        return False
    for at, known in ((TYPE, type(array)), (DESCRIPTION, array.dtype)):
        if ctypes.c_void_p.from_address(address + at).value != id(known):
            return False
    if ctypes.c_void_p.from_address(address + DATA).value != array.ctypes.data:
        return False
    if dense != ctypes.c_int.from_address(address + FLAGS).value & DENSE and dense:
        return False
    if not rank:
        return True
    shape, strides = (
        tuple(words.from_address(ctypes.c_void_p.from_address(address + at).value or 0))
        for at in (DIMENSIONS, STRIDES)
    )
    return (shape, strides) == (array.shape, array.strides)


def imitation(arrays: Sequence[Array]) -> tuple[int, list[Any]]:
    """Memory that looks to machine code like a list of arrays: its address, and what keeps it alive."""
    kept: list[Any] = []
    objects = (ctypes.c_void_p * max(1, len(arrays)))()
    for at, array in enumerate(arrays):
        axes = ctypes.c_ssize_t * max(1, array.ndim)
        shape, strides = axes(*array.shape), axes(*array.strides)
        fields = ctypes.create_string_buffer(FLAGS + 8)
        address = ctypes.addressof(fields)
        ctypes.c_void_p.from_buffer(fields, DATA).value = array.ctypes.data
        ctypes.c_int.from_buffer(fields, RANK).value = array.ndim
        ctypes.c_void_p.from_buffer(fields, DIMENSIONS).value = ctypes.addressof(shape)
        ctypes.c_void_p.from_buffer(fields, STRIDES).value = ctypes.addressof(strides)
        flags = DENSE if array.flags.c_contiguous and array.flags.aligned else 0
        ctypes.c_int.from_buffer(fields, FLAGS).value = flags
        objects[at] = address
        kept += [shape, strides, fields]
    whole = ctypes.create_string_buffer(ITEMS + 8)
    ctypes.c_void_p.from_buffer(whole, ITEMS).value = ctypes.addressof(objects)
    return ctypes.addressof(whole), [*kept, objects, whole]
