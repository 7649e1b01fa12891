"""Groups: units that are to run together, panel by panel, and which of them feed which.

In: units. Out: ``Group``, which grows as groups are merged; one that was taken over points to the group
that it is part of now.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fusegraph.graph import Node, Shape
from fusegraph.members import Members
from fusegraph.panels import Panels
from fusegraph.units import Reason, Unit


@dataclass(slots=True, eq=False)
class Group:
    """Units that run together. ``rows`` are the leading axes they share; None: no rows."""

    units: list[Unit]
    rows: Shape | None
    rank: int
    refusal: tuple[Reason, str] | None  # why it has no rows
    members: Members
    seconds: float  # of its nodes on one thread
    # Other groups that read its values and whose values it reads, or what was merged into those.
    read_by: dict[Group, None] = field(default_factory=dict)
    fed_by: dict[Group, None] = field(default_factory=dict)
    panels: Panels | None = None  # how it is cut, once that was asked
    merged: Group | None = None  # the group that took it over

    @property
    def nodes(self) -> set[Node]:
        return self.members.nodes

    def readers(self) -> list[Group]:
        """Other groups that read its values, once each."""
        self.read_by = self._others(self.read_by)
        return list(self.read_by)

    def feeders(self) -> list[Group]:
        """Other groups whose values it reads, once each."""
        self.fed_by = self._others(self.fed_by)
        return list(self.fed_by)

    def _others(self, groups: dict[Group, None]) -> dict[Group, None]:
        return {group: None for group in map(resolved, groups) if group is not self}


def resolved(group: Group) -> Group:
    """The group that a group is part of now."""
    while group.merged is not None:
        if group.merged.merged is not None:
            group.merged = group.merged.merged
        group = group.merged
    return group
