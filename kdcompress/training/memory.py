"""Memory of the host that a training uses again and again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of mallopt(3)
MIB = 2**20


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, what is freed stays with the process.

    glibc gives blocks of more than 32 MiB, and what is free at the heap's end, back to the kernel at once; the next
    tensor of that size is then mapped and cleared again, page by page, at each step. For the maps of a feature method
    that was a fifth of a step on a CPU. Elsewhere than with glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:  # to what glibc arrives at by itself
        libc.mallopt(MMAP_MAX, 65_536)
        libc.mallopt(MMAP_THRESHOLD, 32 * MIB)
        libc.mallopt(TRIM_THRESHOLD, 64 * MIB)
        libc.malloc_trim(0)
