"""Engines: what evaluates the body of a kernel. One table; a new engine is one entry."""

from fusegraph.engines.base import Engine
from fusegraph.engines.blocks import NumpyEngine
from fusegraph.engines.llvm.compiler import REMEDY, installed
from fusegraph.engines.llvm.engine import LlvmEngine
from fusegraph.engines.numexpr import NumexprEngine

FALLBACK = "numpy"  # accepts every element-wise node

ELEMENTWISE_ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (NumpyEngine(), NumexprEngine(), *((LlvmEngine(),) if installed() else ()))
}

COMPILING = tuple(engine for engine in ELEMENTWISE_ENGINES.values() if engine.compiles)
"""Engines that make machine code, which ``auto`` takes from the call on that it pays at."""

REMEDIES = {} if installed() else {LlvmEngine.name: REMEDY}
"""Engines whose packages are not installed, and what to do about it."""
