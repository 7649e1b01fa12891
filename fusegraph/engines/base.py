"""What an engine is: the interface, and the records that pass through it.

An engine evaluates the body of a kernel; the schedule runs the loop around it. ``refuses`` speaks for
one node, ``limit`` for a region while it grows, ``nanoseconds`` says what a node costs, ``compile``
gives the body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fusegraph.graph import DType, Node, Shape
from fusegraph.machine import Machine

Array = Any  # numpy.ndarray of any dtype: the hot path does not look


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Nodes that run in one pass.

    ``nodes`` are in topological order; ``inputs`` are the values it reads, but for constants, which are
    part of the body; ``outputs`` those of its nodes that are stored. Element-wise nodes all have the
    iteration space ``shape``; of nodes that share rows it is the largest one. A node that is one call of
    a library takes its operands by position, constants included, and ``shape`` is its result's.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    shape: Shape

    @classmethod
    def of(cls, nodes: Sequence[Node], outputs: Iterable[Node], shape: Shape) -> Region:
        """The region of ``nodes``, in order: it reads what they read and none of them computes."""
        inside = set(nodes)
        reads = dict.fromkeys(
            i for n in nodes for i in n.inputs if i not in inside and i.kind != "const"
        )
        return cls(tuple(nodes), tuple(reads), tuple(outputs), shape)

    @property
    def size(self) -> int:
        """Elements of the iteration space."""
        return math.prod(self.shape)

    @property
    def constants(self) -> tuple[Node, ...]:
        """The constants that its nodes read, once each."""
        return tuple(dict.fromkeys(i for n in self.nodes for i in n.inputs if i.kind == "const"))

    @property
    def extent(self) -> Extent:
        """Its size, with every value counted as alive to the end."""
        live = len(self.inputs) + len(self.nodes)
        return Extent(len(self.inputs), len(self.constants), len(self.outputs), live)


class Extent(NamedTuple):
    """Size of a region, which may still grow: what the limits of engines are about."""

    inputs: int
    constants: int
    outputs: int
    live: int  # upper bound of values alive at once, inputs included


class Body(Protocol):
    """A compiled region."""

    scratch_bytes: int  # temporaries per element of a block
    call_bytes: int = 0  # what a thread works in beside them

    def temporary_bytes(self, elements: int, dense: bool) -> int:
        """What its calls allocate for a block of ``elements``, whose operands lie ``dense`` or not."""
        return 0

    in_place: bool = False  # may a result be written over an operand of its shape?
    # Has it ``share_blocks`` (dense operands) or ``share_parts`` (any layout), to run on threads
    # without the interpreter's lock?
    shares_blocks: bool = False
    shares_parts: bool = False

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate over whole operands (one block) into ``outputs``."""


class Multiply(Protocol):
    """A product of an engine's own: of one panel, or of all that have one right side."""

    dtype: DType
    packed: bool  # is its right side what ``pack`` gave?
    compile_seconds: float

    @property
    def packed_elements(self) -> int:
        """Of what ``pack`` gives."""

    @property
    def packed_bytes(self) -> int:
        """The same in bytes."""

    @property
    def available(self) -> bool:
        """Has this processor what it takes? Else it is a call of NumPy."""

    def seconds(self, rows: int, panels: int, machine: Machine) -> float:
        """Predicted of so many rows in so many panels, on one thread."""

    def scratch_bytes(self, rows: int) -> int:
        """Bytes that a thread works in, with panels of ``rows``."""

    def pack(self, b: Array, threads: int) -> Array:
        """A right side as the product reads it, made once for all panels."""

    def __call__(self, a: Array, b: Array, out: Array) -> None:
        """``a @ b`` into ``out``."""

    def share(self, a: Array, b: Array, out: Array, threads: int) -> None:
        """The same of all panels on several threads, where ``b`` is not packed yet."""

    def pack_work(self, b: Array, threads: int, start: int = 0) -> Any:
        """The job that packs, for ``(b, packed)``, or None.

        ``start``: bytes by which ``b`` begins behind what the job is given for it.
        """

    def rows_work(self, a: Array, out: Array, threads: int, start: int = 0) -> Any:
        """The job that multiplies, for ``(a, packed, out)``, or None; ``start`` is that of ``a``."""


class Chain(Protocol):
    """Calls of an engine that follow each other on a panel, as a job with a task for each panel.

    ``file`` has whole operands and results, then what each thread has of its own, ``keys`` what of each
    belongs to each panel.
    """

    def work(
        self, file: Sequence[Array], keys: Sequence[Sequence[Any]], operands: int, threads: int
    ) -> Any:
        """The job, for arrays that lie as these do; None where a call cannot take them so."""

    def share(
        self, file: Sequence[Array], keys: Sequence[Sequence[Any]], operands: int, threads: int
    ) -> bool:
        """Run it on several threads; False where there is none."""


class DirectCall(Protocol):
    """A job as a callable of arrays, without Python in between."""

    @property
    def call(self) -> Callable[..., Any]:
        """It gives None for arguments that are not dense arrays of its shapes and dtypes, and where what
        it captured has another shape or layout by now.
        """

    @property
    def valid(self) -> bool:
        """Does it still run? After a fork it does not."""

    @property
    def calls(self) -> int:
        """Those that gave a result."""


class Engine(Protocol):
    """Evaluates bodies. ``blocked`` engines are called block by block; others loop by themselves.

    What has a value here is that of an engine which is called by Python and has no stage of rows.
    """

    name: str
    blocked: bool
    rows: bool = False  # does one stage of a panel take values of several widths, and reductions?
    compiles: bool = False  # its first run takes milliseconds: ``auto`` waits until that pays
    least_compile_seconds: float = 0.0  # of any region, predicted

    def refuses(self, node: Node) -> str | None:
        """Why this engine cannot evaluate ``node``, or None."""

    def refuses_in_panel(self, node: Node, layout: tuple[int, ...]) -> str | None:
        """Why it cannot evaluate ``node`` on panels whose axes lie in ``layout``, or None."""

    def limit(self, extent: Extent) -> str | None:
        """Which limit a region of this extent breaks, or None."""

    def launch_seconds(self, size: int, threads: int, machine: Machine) -> float:
        """Seconds of a kernel of ``size`` elements beside its arithmetic."""

    def nanoseconds(self, node: Node, machine: Machine) -> float:
        """Nanoseconds per element of one node on one thread, operands in cache."""
        dtype = node.inputs[0].dtype if node.dtype.kind == "b" else node.dtype
        return machine.ns(self.name, node.op.name, dtype, node.op.flop_class)

    def row_seconds(self, region: Region, machine: Machine) -> float:
        """Seconds that the rows of a stage of a panel take on one thread, beside their elements."""
        return 0.0

    def packing_seconds(self, elements: int) -> float:
        """Seconds to bring elements of operands together that do not lie dense, on one thread."""
        return 0.0

    def product(self, node: Node, packed: bool) -> Multiply | None:
        """What multiplies in a panel, or None: NumPy does. ``packed``: panels share the right side."""
        return None

    def compile(self, region: Region) -> Any:
        """The body for ``region``."""

    def compile_seconds(self, region: Region) -> float:
        """Predicted seconds of making the body ready to run; 0.0 where planning has done it."""
        return 0.0

    def join_work(self, node: Node, kept: DType, count: int) -> Any:
        """The job that puts ``count`` partial results of a reduction, of dtype ``kept``, together."""
        return None

    def chain(self, calls: Sequence[tuple[Any, Sequence[int]]]) -> Chain | None:
        """Its bodies and products as a chain, each with the places of its arrays, or None."""
        return None

    def direct_call(
        self,
        work: Sequence[tuple[Any, Sequence[int], int]],
        arguments: Sequence[Array],
        captured: Sequence[Array],
        outlets: Sequence[Callable[[], Array]],
        results: int,
        several: bool,
    ) -> DirectCall | None:
        """Jobs of its bodies as a direct call, or None where it has none.

        Each job comes with the places of its operands and its threads. Arguments come first, then what
        is ``captured``, then what ``outlets`` made: the ``results``, a tuple where ``several``, then
        what is between jobs.
        """
        return None
