"""fusegraph: a fusion compiler for NumPy.

Write array code on a lazy ``Tensor``; element-wise chains run as single kernels, matrix products go to
BLAS or tiles, and the plan says what fused, what did not and why.
"""

from __future__ import annotations

import sys as _sys
from typing import TYPE_CHECKING, Any

import numpy as _np

from fusegraph import acceleration as acceleration
from fusegraph import standard as _standard
from fusegraph.arrays import checked_device as _checked_device
from fusegraph.arrays import checked_dtype as _checked_dtype
from fusegraph.bound_plan import BoundPlan as BoundPlan
from fusegraph.bound_plan import MemoryLimitError as MemoryLimitError
from fusegraph.bound_plan import bind as _bind
from fusegraph.buffers import POOL as _POOL
from fusegraph.calibrate import current_machine
from fusegraph.compare import compare as compare
from fusegraph.cost import Cost as Cost
from fusegraph.cost import Traffic as Traffic
from fusegraph.jit import jit as jit
from fusegraph.machine import Machine as Machine
from fusegraph.machine_file import default_machine as default_machine
from fusegraph.namespace import FUNCTIONS as _FUNCTIONS
from fusegraph.namespace import compute as compute
from fusegraph.operations import cast as _cast
from fusegraph.options import Options as Options
from fusegraph.options import current_options as _current_options
from fusegraph.options import options as options
from fusegraph.plan import Plan as Plan
from fusegraph.plan_cache import PLANS as _PLANS
from fusegraph.tensor import Tensor as Tensor
from fusegraph.tensor import as_node as _as_node
from fusegraph.tensor import wrap as _wrap
from fusegraph.units import Decision as Decision
from fusegraph.units import Reason as Reason

__version__ = "0.1.0"
__array_api_version__ = _standard.VERSION
_NAMES = _FUNCTIONS | _standard.FUNCTIONS | _standard.CONSTANTS | _standard.NAMED_DTYPES
globals().update(_NAMES)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


_standard.attach(_sys.modules[__name__])


def asarray(value: Any, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A lazy tensor over an array (shared, never written), a scalar or a nested list.

    Parameters
    ----------
    value : array_like or Tensor
    dtype : data-type, optional
        Cast to this one, lazily.
    device : {"cpu"}, optional
    copy : bool, optional
        True: later writes to the array change nothing that is computed. False: it must be shared.

    Raises
    ------
    TypeError
        The dtype is not one of NumPy's bool, integer, float16/32/64 and complex64/128 types.
    ValueError
        The list is ragged; the device is another; or ``copy`` is False and there must be one.
    OverflowError
        A Python integer does not fit ``dtype``.
    """
    _checked_device(device)
    if isinstance(value, Tensor):
        return _again(value, dtype, copy)
    kind = None if dtype is None else _checked_dtype(dtype)
    if copy is False:
        value = _np.array(value, kind, copy=False, subok=True)  # or it says that it cannot
    elif copy and not isinstance(value, (list, tuple, complex, float, int)):  # they are anyway
        value = _np.array(value, copy=True, subok=True)
    if kind is None:
        return Tensor(value)
    # NumPy says where a Python integer does not fit; a cast would wrap it.
    return _cast(_wrap(_as_node(value, kind)), kind)


def _again(tensor: Tensor, dtype: Any, copy: bool | None) -> Tensor:
    """The tensor itself, or another handle where it is to be cast or copied."""
    kind = tensor.dtype if dtype is None else _checked_dtype(dtype)
    if kind == tensor.dtype:
        return _wrap(tensor.node) if copy else tensor
    if copy is False:
        raise ValueError(
            f"asarray: {tensor.dtype} as {kind} is another array, and copy=False; leave copy out"
        )
    return _cast(tensor, kind)


def plan(*tensors: Any, **changes: Any) -> BoundPlan:
    """The plan for computing tensors together; nothing runs.

    Parameters
    ----------
    *tensors : Tensor
    **changes
        Options for this plan, see :class:`fusegraph.options.Options`.
    """
    return _bind([asarray(t).node for t in tensors], _current_options(**changes))


def machine() -> Machine:
    """The profile of this machine: measured in one or two seconds on first use, then kept."""
    return current_machine()


def cached_plans() -> list[Plan]:
    """The plans that ``compute`` and ``plan`` keep, least recently used first."""
    return _PLANS.plans()


def clear_caches() -> None:
    """Forget cached plans and pooled buffers."""
    _PLANS.clear()
    _POOL.clear()


__all__ = [
    "BoundPlan", "Cost", "Decision", "Machine", "MemoryLimitError", "Options", "Plan", "Reason",
    "Tensor", "Traffic", "acceleration", "asarray", "cached_plans", "clear_caches", "compare",
    "compute", "default_machine", "jit", "machine", "options", "plan",
]  # fmt: skip
__all__.extend(sorted(_NAMES))
