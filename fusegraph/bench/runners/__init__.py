"""Runners: the libraries that run the suite. One table; another library is one entry.

Importing this imports no optional package.
"""

from fusegraph.bench.runners.base import Runner
from fusegraph.bench.runners.chunks import DaskRunner
from fusegraph.bench.runners.eager import NumpyRunner
from fusegraph.bench.runners.expressions import BloscRunner
from fusegraph.bench.runners.fused import FusedRunner
from fusegraph.bench.runners.parallel import NumbaRunner
from fusegraph.bench.runners.programs import NumexprRunner
from fusegraph.bench.runners.tensors import TorchRunner
from fusegraph.bench.runners.tracing import JaxRunner

RUNNERS: dict[str, type[Runner]] = {
    runner.name: runner
    for runner in (
        FusedRunner, NumpyRunner, NumexprRunner, JaxRunner, TorchRunner, NumbaRunner, BloscRunner,
        DaskRunner,
    )
}  # fmt: skip
"""By name, fusegraph first; the others are its peers."""
