"""JAX: ``jax.jit`` of the function, 64-bit types enabled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fusegraph.bench.runners.base import Call, Runner
from fusegraph.bench.suite import Row


class JaxRunner(Runner):
    """One compiled function a row; a result is waited for."""

    name: ClassVar[str] = "jax"
    packages: ClassVar[tuple[str, ...]] = ("jax", "jaxlib")
    ways = ("jax",)
    jax: Any

    def load(self) -> None:
        import jax  # noqa: PLC0415  (optional)

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def own(self, row: Row, arrays: Sequence[Any]) -> list[Any]:
        return [self.jax.block_until_ready(self.jax.numpy.asarray(a)) for a in arrays]

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        jax, function = self.jax, row.function
        compiled = jax.jit(lambda *arrays: function(jax.numpy, *arrays))
        return lambda *arrays: jax.block_until_ready(compiled(*arrays))

    def forget(self) -> None:
        self.jax.clear_caches()
