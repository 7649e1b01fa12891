"""The Python array API standard (2024.12), beside its functions: dtypes, constants, devices, exchange.

In: arrays, dtypes. Out: what ``t.__array_namespace__()`` has besides functions of tensors, so that a
library written for the standard runs on them. dtypes are NumPy's, and so is what can be asked of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from fusegraph.arrays import CPU, checked_array, checked_device
from fusegraph.graph import MOST_AXES
from fusegraph.ops import DTYPES
from fusegraph.tensor import Tensor, wrap

VERSION = "2024.12"

CONSTANTS: dict[str, Any] = {
    "e": math.e, "inf": math.inf, "nan": math.nan, "newaxis": None, "pi": math.pi,
}  # fmt: skip
NAMED_DTYPES: dict[str, type[np.generic]] = {dtype.name: dtype.type for dtype in DTYPES}

_KINDS = {
    "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu",
    "real floating": "f", "complex floating": "c", "numeric": "iufc",
}  # fmt: skip


# --- dtypes ---------------------------------------------------------------------------------------


def _dtype_of(value: Any) -> Any:
    return value.dtype if isinstance(value, Tensor) else value


def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """Does every value of a dtype, or of a tensor's, fit another one? See ``numpy.can_cast``."""
    return np.can_cast(_dtype_of(from_), to, casting)


def finfo(type: Any) -> np.finfo[Any]:
    """Limits of a floating dtype, or of a tensor's."""
    return np.finfo(_dtype_of(type))


def iinfo(type: Any) -> np.iinfo[Any]:
    """Limits of an integer dtype, or of a tensor's."""
    return np.iinfo(_dtype_of(type))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Is it of a ``kind``: a dtype, a name as ``"real floating"``, or a tuple of them?"""
    return np.isdtype(dtype, kind)


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that arrays, dtypes and Python's numbers promote to."""
    return np.result_type(*map(_dtype_of, arrays_and_dtypes))


# --- devices and exchange -------------------------------------------------------------------------


def _device(self: Tensor) -> str:
    """Where the tensor is computed."""
    return CPU


def _to_device(self: Tensor, device: Any, /, *, stream: Any = None) -> Tensor:
    """The tensor itself: there is one device."""
    checked_device(device)
    if stream is not None:
        raise ValueError(f"to_device: stream={stream!r}: {CPU!r} has none")
    return self


def _dlpack(
    self: Tensor,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """The tensor, computed, as a DLPack capsule; see ``numpy.ndarray.__dlpack__``."""
    return self.compute().__dlpack__(
        stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
    )


def _dlpack_device(self: Tensor) -> tuple[Any, int]:
    return np.empty(0).__dlpack_device__()


def from_dlpack(x: Any, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor over an array of another library, shared where it can be.

    Raises
    ------
    TypeError
        Its dtype is none that a tensor can have.
    """
    checked_device(device)
    if isinstance(x, Tensor):
        return wrap(x.node) if copy else x
    return Tensor(checked_array(np.from_dlpack(x, copy=copy)))


# --- asking the namespace -------------------------------------------------------------------------


class NamespaceInfo:
    """What a library may ask before it begins."""

    def capabilities(self) -> dict[str, Any]:
        """Arrays of truth values index; shapes may depend on values; axes there may be."""
        return {
            "boolean indexing": True,
            "data-dependent shapes": True,
            "max dimensions": MOST_AXES,
        }

    def default_device(self) -> str:
        return CPU

    def devices(self) -> list[str]:
        return [CPU]

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype[Any]]:
        """What functions give that are not told a dtype."""
        checked_device(device)
        floating, whole = np.dtype(float), np.dtype(np.intp)
        return {
            "real floating": floating,
            "complex floating": np.dtype(complex),
            "integral": whole,
            "indexing": whole,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, np.dtype[Any]]:
        """Those of a kind, or of several, by name."""
        checked_device(device)
        wanted = _KINDS.keys() if kind is None else (kind,) if isinstance(kind, str) else kind
        unknown = [name for name in wanted if name not in _KINDS]
        if unknown:
            raise ValueError(f"dtypes: kind={unknown[0]!r}: choose one of {', '.join(_KINDS)}")
        kinds = "".join(_KINDS[name] for name in wanted)
        return {d.name: d for d in DTYPES if d.kind in kinds and d != np.float16}


def __array_namespace_info__() -> NamespaceInfo:  # noqa: N807  (the standard's name)
    """What this namespace can do."""
    return NamespaceInfo()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        can_cast, finfo, iinfo, isdtype, result_type, from_dlpack, __array_namespace_info__,
    )
}  # fmt: skip
"""What the namespace has beside the functions of tensors, by name."""


def attach(namespace: ModuleType) -> None:
    """Give ``Tensor`` what the standard asks of an array, of which ``namespace`` has the functions."""

    def array_namespace(self: Tensor, /, *, api_version: str | None = None) -> ModuleType:
        """The functions for tensors, as a module.

        Raises
        ------
        ValueError
            ``api_version`` is newer than what is there.
        """
        if api_version is not None and api_version > VERSION:
            raise ValueError(
                f"__array_namespace__: api_version={api_version!r}; there is {VERSION} and before"
            )
        return namespace

    members: dict[str, Any] = {
        "__array_namespace__": array_namespace,
        "__dlpack__": _dlpack,
        "__dlpack_device__": _dlpack_device,
        "device": property(_device),
        "to_device": _to_device,
    }
    for name, member in members.items():
        setattr(Tensor, name, member)
