"""Predicted beside measured."""
from __future__ import annotations
from typing import Any
Profile = Any
def profile_plan(plan: Any, arrays: Any, repeats: int) -> Any: ...
