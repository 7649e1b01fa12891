"""Sources: the line of the user's code that an operation comes from.

In: the options in force. Out: ``file:line``, or nothing where sources are not traced.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fusegraph.options import current_options

PACKAGE = str(Path(__file__).parent) + os.sep  # a file beside it may have a name that goes on


def traced_line() -> str:
    """``file:line`` of the nearest caller outside of this package, if sources are traced, else ""."""
    if not current_options().trace_source:
        return ""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
