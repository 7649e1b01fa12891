"""Records as JSON text."""

from __future__ import annotations

import json
import math
from typing import Any


def document(facts: dict[str, Any]) -> str:
    """Facts as JSON; what is not finite becomes null, which JSON has."""
    return json.dumps(_finite(facts), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
