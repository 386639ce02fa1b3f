"""The memory of a training on CPUs: it stays with the process between the steps.

A step frees its feature maps, tens of megabytes each. glibc gives blocks as large as that back to the kernel at once,
and the next step gets them anew, page by page and filled with zeros: up to a third of its time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

RAY_RUNTIME_ENV: Mapping[str, Mapping[str, str]] = {"env_vars": {"MALLOC_ARENA_MAX": "1"}}
"""Of Ray's workers, which train in a thread of their own. It must take its memory from the main arena, the only one
whose memory can be kept: the heaps of the others are of 64 MB, and are unmapped as soon as they are free."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""
_NEVER = -1
_AFTERWARDS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
"""The default, and the largest values that glibc gives its thresholds by itself; it does no more once one is set."""


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """While it lasts, memory that is freed is not given back to the kernel; at its end, all of it is.

    The process is the larger for that by what lies between its blocks, a tenth was seen. Nothing is done where the
    device is no CPU, or the C library not glibc.
    """
    libc = ctypes.CDLL(None)
    if device.type != "cpu" or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        for parameter, value in _AFTERWARDS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
