"""Text."""
from __future__ import annotations
from typing import Any
def plan_text(plan: Any) -> str:
    return "\n".join(f"{k.name} {k.engine} {k.schedule} {k.cost.bytes_moved} {k.expression}" for k in plan.kernels)
