"""A user's arrays, dtypes and devices, checked: what a Tensor can hold, in this machine's byte order.

In: arrays, whatever NumPy takes for a dtype, the name of a device. Out: the same, or an error that names
what there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusegraph.graph import Array, DType
from fusegraph.ops import DTYPES

HELD = ", ".join(map(str, DTYPES))
NATIVE = frozenset(DTYPES)
CPU = "cpu"


def checked_array(array: Array) -> Array:
    """``array`` in this machine's byte order, if its dtype is held.

    Raises
    ------
    TypeError
        Naming the dtype and the remedy.
    """
    if array.dtype in NATIVE:
        return array
    native = array.dtype.newbyteorder("=")
    if native not in NATIVE:
        raise TypeError(
            f"asarray: dtype {array.dtype} is not supported; cast to one of {HELD} first"
        )
    return array.astype(native)


def checked_dtype(dtype: Any) -> DType:
    """A dtype given by a user, checked."""
    try:
        found: DType = np.dtype(dtype).newbyteorder("=")
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"dtype={dtype!r} is not understood; choose one of {HELD}") from None
    if found not in NATIVE:
        raise TypeError(f"dtype {found} is not supported; choose one of {HELD}")
    return found


def checked_device(device: Any) -> None:
    """Refuse every device but this one; None means it too.

    Raises
    ------
    ValueError
        It is another.
    """
    if device is not None and device != CPU:
        raise ValueError(f"device={device!r}: tensors live on {CPU!r}")
