"""torch: eager, compiled, and its own fused functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from fusegraph.bench.runners.base import Call, Runner, UnsupportedError
from fusegraph.bench.suite import Row

EAGER, COMPILED, FUSED = "torch", "torch.compile", "torch.fused"


class TorchRunner(Runner):
    """Tensors that share the arrays' memory; nothing asks for gradients."""

    name: ClassVar[str] = EAGER
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    ways = (EAGER, COMPILED, FUSED)
    torch: Any
    namespace: Any

    def load(self) -> None:
        import torch  # noqa: PLC0415  (optional)
        import torch._inductor.config as inductor  # noqa: PLC0415

        inductor.force_disable_caches = True  # what an earlier run compiled is no first call
        self.torch = torch
        self.namespace = Namespace(torch)

    def own(self, row: Row, arrays: Sequence[Any]) -> list[Any]:
        return [self.torch.from_numpy(a) for a in arrays]

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        if way == FUSED:
            make = FUSED_FUNCTIONS.get(row.function.__name__)
            if make is None:
                raise UnsupportedError("torch has no function of its own for it")
            return make(self.torch)
        function, namespace = row.function, self.namespace

        def call(*arrays: Any) -> Any:
            return function(namespace, *arrays)

        return self.torch.compile(call, dynamic=False) if way == COMPILED else call

    def array(self, result: Any) -> Any:
        return result.numpy()

    def forget(self) -> None:
        self.torch._dynamo.reset()


class Namespace:
    """torch's functions under NumPy's names, where torch has other ones."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.max, self.min = torch.amax, torch.amin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def maximum(self, x: Any, least: float) -> Any:
        return self._torch.clamp(x, min=least)

    def minimum(self, x: Any, most: float) -> Any:
        return self._torch.clamp(x, max=most)

    def std(self, x: Any) -> Any:
        return self._torch.std(x, correction=0)


def _layer(torch: Any) -> Call:
    gelu = torch.nn.functional.gelu
    return lambda x, w, b: gelu(torch.addmm(b, x, w), approximate="tanh")


def _attention(torch: Any) -> Call:
    """Four axes are what its fast kernel takes."""
    attend = torch.nn.functional.scaled_dot_product_attention

    def call(q: Any, k: Any, v: Any) -> Any:
        if q.ndim == 4:
            return attend(q, k, v)
        return attend(q[None, None], k[None, None], v[None, None])[0, 0]

    return call


def _pairwise(torch: Any) -> Call:
    """Without products, whose cancellation costs half of the digits."""
    return lambda a, b: torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


# By the function of the row: what a user of torch would call instead.
FUSED_FUNCTIONS: dict[str, Callable[[Any], Call]] = {
    "triad": lambda torch: lambda a, b: torch.add(a, b, alpha=2.5),
    "hardswish": lambda torch: torch.nn.functional.hardswish,
    "gelu": lambda torch: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "sigmoid": lambda torch: torch.sigmoid,
    "softplus": lambda torch: torch.nn.functional.softplus,
    "squared_error": lambda torch: lambda a, b: torch.nn.functional.mse_loss(a, b, reduction="sum"),
    "extremes": lambda torch: lambda x: tuple(torch.aminmax(x)),
    "softmax": lambda torch: lambda x: torch.softmax(x, -1),
    "log_softmax": lambda torch: lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda torch: (
        lambda x, w, b: torch.nn.functional.layer_norm(x, x.shape[-1:], w, b)
    ),
    "rms_norm": lambda torch: lambda x, w: torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-5),
    "layer": _layer,
    "pairwise": _pairwise,
    "attention": _attention,
}
