"""Records."""
from __future__ import annotations
from typing import Any
def plan_record(plan: Any) -> Any: ...
