"""Tensor: the lazy array, a handle on a node; and the node of any value.

In: arrays, scalars, lists. Out: nodes; arrays, when a value is asked for. Its operators are in
``operators``, NumPy's protocols in ``protocols``, its methods in ``namespace``.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegraph.arrays import checked_array
from fusegraph.bound_plan import BoundPlan, bind
from fusegraph.computing import as_computed, compute_into
from fusegraph.cost import Traffic
from fusegraph.graph import Array, DType, Node, Shape, const, leaf, topological
from fusegraph.options import Options, current_options

ARRAY_FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""NumPy function -> what serves it on Tensors; filled where the functions are defined."""


class SizeReads(threading.local):
    """Did code in this thread read a size? ``jit`` asks: such a trace holds for its sizes alone.

    Functions of this package that follow sizes without depending on them read ``node.shape``.
    """

    seen = False


SIZE_READS = SizeReads()


class Tensor:
    """A lazy array: a handle on a node of the expression graph.

    Nothing runs until a value is needed (``compute``, ``np.asarray``, ``float``, ``bool``,
    ``tolist``). Arrays are shared, not copied, and never written; writing to one before computing
    changes what is computed. In-place syntax (``t += 1``, ``t[0] = 1``) points the handle at a new
    node and leaves the array alone.

    Parameters
    ----------
    value : array_like or Tensor
    """

    __slots__ = ("__weakref__", "node")
    __hash__ = object.__hash__
    __array_priority__ = 1000.0

    node: Node

    def __init__(self, value: Any) -> None:
        self.node = as_node(value)

    # --- what is known without computing ----------------------------------------------------------

    @property
    def shape(self) -> Shape:
        SIZE_READS.seen = True
        return self.node.shape

    @property
    def dtype(self) -> DType:
        return self.node.dtype

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

    @property
    def size(self) -> int:
        SIZE_READS.seen = True
        return self.node.size

    @property
    def nbytes(self) -> int:
        """Bytes of the value when it is stored."""
        SIZE_READS.seen = True
        return self.node.nbytes

    @property
    def pending(self) -> int:
        """Operations that computing this tensor would run, before rewriting."""
        return sum(n.kind not in ("input", "const", "view") for n in topological([self.node]))

    def __repr__(self) -> str:
        pending = self.pending
        state = "computed" if not pending else f"{pending} op{'s' * (pending > 1)} pending"
        return f"Tensor({shown(self)}, {state})"

    def _repr_html_(self) -> str:
        return self.plan()._repr_html_()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d Tensor")
        return self.shape[0]

    # --- computing --------------------------------------------------------------------------------

    def compute(self, out: Array | None = None, **changes: Any) -> Array:
        """Run the plan; the result is kept, so what is built on this tensor later does not rerun it.

        A later call returns what is kept: its options (``exact=True``, ``engine="numpy"``, ...) have
        nothing to run. To run with others, build the expression again.

        Parameters
        ----------
        out : numpy.ndarray, optional
            Where to write the result: same shape and dtype, no overlap with an input.
        **changes
            Options for this call, see :class:`fusegraph.options.Options`.

        Returns
        -------
        numpy.ndarray
        """
        options = current_options(**changes)
        if out is not None:
            return compute_into(self.node, out, options)
        if self.node.data is not None and self.node.kind == "input":
            return as_computed(self.node)
        return compute_tensors([self], options)[0]

    def plan(self, **changes: Any) -> BoundPlan:
        """The plan for this tensor, with ``changes`` of options; nothing runs."""
        return bind([self.node], current_options(**changes))

    def traffic(self, **changes: Any) -> Traffic:
        """Modelled bytes before and after fusion: short for ``plan().traffic``."""
        return self.plan(**changes).traffic

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.compute()
        return np.array(array, dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The value of a one-element tensor as a Python scalar."""
        return self.compute().item()

    def tolist(self) -> Any:
        return self.compute().tolist()

    def __bool__(self) -> bool:
        return bool(self.compute())

    def __float__(self) -> float:
        return float(self.compute())

    def __int__(self) -> int:
        return int(self.compute())

    def __complex__(self) -> complex:
        return complex(self.compute())

    def __index__(self) -> int:
        return operator.index(self.compute())

    def __bytes__(self) -> bytes:  # else ``bytes`` takes a whole number for a length
        return self.compute().tobytes()

    def __format__(self, spec: str) -> str:
        """Of one value, computed, as Python's number; without a specification, as ``repr``."""
        if not spec:
            return repr(self)
        if self.node.shape:
            raise TypeError(
                f"format: {spec!r} is for one value, not {shown(self)}; index it, or print np.asarray(t)"
            )
        return format(self.item(), spec)

    def __reduce__(self) -> Any:
        return Tensor, (np.array(self.compute()),)

    # --- indexing ---------------------------------------------------------------------------------

    def __contains__(self, value: Any) -> bool:
        """Is any element equal to ``value``? It is computed."""
        return bool(np.any((self == value).compute()))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    # --- what ``operators`` and ``protocols`` attach ----------------------------------------------

    if TYPE_CHECKING:

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def __setitem__(self, key: Any, value: Any) -> None: ...

        __array_ufunc__: Any
        __array_function__: Any

        def __getattr__(self, name: str) -> Any: ...


# --- values to nodes ------------------------------------------------------------------------------


def wrap(node: Node) -> Tensor:
    """A handle on a node that exists."""
    tensor = Tensor.__new__(Tensor)
    tensor.node = node
    return tensor


def as_node(value: Any, dtype: Any = None) -> Node:
    """The node of a value: a tensor's own, a leaf for an array, a constant for a scalar."""
    if type(value) is np.ndarray:
        return leaf(checked_array(value))
    if isinstance(value, Tensor):
        return value.node
    if isinstance(value, Node):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("asarray: a masked array would lose its mask; use .filled(value) first")
    if isinstance(value, (bool, int, float, complex, np.generic)):
        array = np.asarray(value, dtype)
        if array.dtype.kind == "O" and isinstance(value, int):
            raise OverflowError(
                f"asarray: an integer of {value.bit_length()} bits is beyond 64; give a float or a dtype"
            )
        return const(checked_array(array), array.dtype)
    if isinstance(value, (list, tuple)) and holds_tensor(value):
        return ARRAY_FUNCTIONS[np.stack]([Tensor(v) for v in value]).node  # type: ignore[no-any-return]
    try:
        array = np.asarray(value, dtype)
    except ValueError as error:
        raise ValueError(
            f"asarray: the list is ragged or holds what no array can hold ({error}); "
            "give rows of one length"
        ) from error
    return leaf(checked_array(array))


def holds_tensor(value: Any) -> bool:
    """Is there a tensor in a list, or in lists within it?"""
    return any(
        isinstance(v, Tensor) or (isinstance(v, (list, tuple)) and holds_tensor(v)) for v in value
    )


def shown(x: Tensor) -> str:
    """Dtype and shape, as messages write them: ``float64[2, 3]``."""
    return f"{x.node.dtype}{list(x.node.shape)}"


# --- computing ------------------------------------------------------------------------------------


def compute_tensors(tensors: list[Tensor], options: Options) -> list[Array]:
    """Run one plan for several tensors; each becomes a leaf that holds its result.

    What they share runs once. Equal tensors get arrays of their own, as each expression of NumPy's does.
    """
    pending = {id(t): t for t in tensors if t.node.kind != "input"}
    if pending:
        arrays = bind([t.node for t in pending.values()], options).run()
        for tensor, array in zip(pending.values(), arrays, strict=True):
            tensor.node = leaf(array)
    return [as_computed(t.node) for t in tensors]
