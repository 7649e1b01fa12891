"""A plan bound to the arrays it will run on: what ``fg.plan`` returns and ``compute`` runs.

In: nodes over the user's arrays. Out: a cached ``Plan`` over placeholders plus the arrays; from it
results, text, JSON and answers. This is where execution and reports meet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import networkx as nx

from fusegraph.cost import Cost, Traffic
from fusegraph.execute import Program
from fusegraph.graph import Array, Node
from fusegraph.kernel import Kernel
from fusegraph.options import Options
from fusegraph.plan import build_plan
from fusegraph.plan_cache import PLANS, Graph, over_placeholders, take_apart
from fusegraph.profile import Profile, profile_plan
from fusegraph.properties import lazy_property
from fusegraph.report import graphs, records, text
from fusegraph.roofline import Roofline, roofline
from fusegraph.units import Decision


class MemoryLimitError(MemoryError):
    """A plan may need more memory than ``memory_limit`` allows. ``plan`` can still be printed.

    A copy has the text and no plan (None): plans hold compiled code, which stays in its process.
    """

    def __init__(self, plan: BoundPlan | str) -> None:
        self.plan = None if isinstance(plan, str) else plan
        super().__init__(plan if isinstance(plan, str) else _over_limit(plan))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),), {**vars(self), "plan": None}  # notes come along


def _over_limit(plan: BoundPlan) -> str:
    """What a ``MemoryLimitError`` says."""
    name = plan.plan.peak_kernel
    takes = f"kernel {name} brings the plan to" if name else "the plan has no kernels, but may take"
    return (
        f"{takes} {plan.peak_bytes:,} bytes, and "
        f"memory_limit is {plan.plan.options.memory_limit:,}; raise the limit, compute in parts, "
        "or print the plan to see which values are stored"
    )


def bind(roots: Sequence[Node], options: Options) -> BoundPlan:
    """Plan for ``roots``."""
    graph = take_apart(tuple(roots))
    return BoundPlan(PLANS.get(graph, options), graph, options)


class BoundPlan:
    """A plan and the arrays it will run on.

    Printing it shows what fused, what did not and why, bytes before and after, and which limit binds
    each kernel. Everything printed is a record: ``kernels``, ``traffic``, ``decisions``, ``to_dict()``.
    """

    def __init__(self, program: Program, graph: Graph, options: Options) -> None:
        self.program = program
        self.plan = program.plan
        self.graph = graph
        self.options = options
        self._profile: Profile | None = None  # the last one of this plan

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels, in the order they run."""
        return self.plan.kernels

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every edge between two operations: fused, or stored and why."""
        return self.plan.decisions

    @property
    def traffic(self) -> Traffic:
        """Modelled cost with fusion off (``before``) and of this plan (``after``)."""
        return self.plan.traffic

    @property
    def cost(self) -> Cost:
        """Modelled cost of this plan."""
        return self.plan.traffic.after

    @property
    def peak_bytes(self) -> int:
        """Upper bound of memory held beside the inputs while the plan runs.

        Stored values and results, temporaries of all threads, and always 128 KiB for Python
        objects.
        """
        return self.plan.peak_bytes

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return self.plan.seconds

    def run(self) -> list[Array]:
        """Run on the bound arrays; one array a result.

        Raises
        ------
        MemoryLimitError
            ``peak_bytes`` exceeds the option ``memory_limit``; nothing has run.
        """
        self.keep_limit()
        return self.program.run(self.graph.arrays)

    def keep_limit(self) -> None:
        """Refuse to run where ``peak_bytes`` exceeds the option ``memory_limit``.

        Raises
        ------
        MemoryLimitError
            It does.
        """
        limit = self.options.memory_limit
        if limit is not None and self.peak_bytes > limit:
            raise MemoryLimitError(self)

    @lazy_property
    def _image(self) -> dict[Node, Node]:
        """Node of the user's graph to node of the plan, where it still exists."""
        placed = over_placeholders(self.graph)
        image = self.plan.rewritten.image
        return {old: image[new] for old, new in placed.items() if new in image}

    def find(self, value: Node | str) -> Node | None:
        """The plan's node for a node of the user's graph, or for a name that the plan prints."""
        if isinstance(value, str):
            for node, name in self.plan.names.items():
                if name == value:
                    return node
            for kernel in self.kernels:
                if kernel.name == value:
                    return kernel.region.outputs[0]
            raise KeyError(f"the plan has no value or kernel named {value!r}")
        return self._image.get(value)

    def explain(self, stage: str = "planned") -> str:
        """Text of one stage: ``graph``, ``rewritten``, ``fused``, ``planned`` or ``buffers``."""
        return text.explain(self.plan, stage)

    def to_networkx(self, level: str = "graph") -> nx.MultiDiGraph[Any]:
        """The rewritten graph, or (``level="kernels"``) the graph of kernels, as a MultiDiGraph."""
        if level == "kernels":
            return graphs.kernel_graph(self.plan)
        if level != "graph":
            raise ValueError(f"level={level!r}: choose graph or kernels")
        return graphs.node_graph(self.plan)

    def to_dot(self, level: str = "graph") -> str:
        """Graphviz text; kernels are clusters."""
        return graphs.dot_text(self.to_networkx(level))

    def to_dict(self) -> dict[str, Any]:
        """The whole plan as plain data."""
        return records.plan_record(self.plan)

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    def profile(self, repeats: int = 5) -> Profile:
        """Run ``repeats`` times and show predicted beside measured time of each kernel."""
        self._profile = profile_plan(self.plan, self.graph.arrays, repeats)
        return self._profile

    def buffers(self) -> tuple[records.BufferRecord, ...]:
        """Every buffer of a run: bytes, the kernels it lives between, whose memory it takes over."""
        return records.buffer_records(self.plan)

    def roofline(self, profile: Profile | None = None) -> Roofline:
        """Each kernel's intensity, ceiling and prediction, and after ``profile()`` its achievement.

        Parameters
        ----------
        profile : Profile, optional
            What ``profile()`` of this plan returned; the last one where it is left out.

        Raises
        ------
        ValueError
            The profile is of another plan.
        """
        profile = profile or self._profile
        if profile is not None and not profile.is_of(self.plan):
            raise ValueError(
                f"roofline: the profile is of another plan; this one ({text.summary(self.plan)}) takes "
                "its own, as in plan.roofline(plan.profile())"
            )
        plain = replace(self.options, fuse=False)
        unfused = build_plan(self.plan.graph, plain, self.plan.machine)
        measured = {k.name: k.measured for k in profile.kernels} if profile else {}
        return roofline(self.plan, unfused, measured)

    def why(self, a: Any, b: Any) -> records.Answer:
        """Why two values are, or are not, in one kernel.

        Parameters
        ----------
        a, b : Tensor or str
            Tensors of the planned graph, or names that the plan prints.
        """
        return records.why(self.plan, self._named(a), self._named(b))

    def _named(self, value: Any) -> Node:
        if not isinstance(value, str) and not isinstance(getattr(value, "node", None), Node):
            raise TypeError(
                f"why: takes tensors of the plan or names that it prints, not {type(value).__name__}"
            )
        node = self.find(value if isinstance(value, str) else value.node)
        if node is None:
            raise KeyError(
                f"{value!r} is not in the plan: it was rewritten away, or never part of it"
            )
        return node

    def __str__(self) -> str:
        return text.plan_text(self.plan)

    def __repr__(self) -> str:
        return f"<{text.summary(self.plan)}; print it>"

    def _repr_html_(self) -> str:
        return text.plan_html(self.plan)
