"""Memory of a thread that compiled code works in: packed tiles, rows that a later phase reads again."""

from __future__ import annotations

import threading

import numpy as np


class Buffer(threading.local):
    """Bytes of one thread, kept from call to call."""

    def __init__(self) -> None:
        self.grow(32 << 10)

    def grow(self, nbytes: int) -> None:
        self.memory = np.empty(nbytes + 64, np.uint8)
        self.address = -(-self.memory.ctypes.data // 64) * 64

    def address_of(self, nbytes: int) -> int:
        """The address of at least ``nbytes`` bytes, aligned to a cache line."""
        if nbytes + 64 > self.memory.size:
            self.grow(nbytes)
        return self.address


BUFFER = Buffer()
