"""The memory of a training on CPUs: it stays with the process between the steps.

A step frees its feature maps, tens of megabytes each. glibc gives blocks as large as that back to the kernel at once,
and the next step gets them anew, page by page and filled with zeros: up to a third of its time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""
_NEVER = -1
_AFTERWARDS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
"""The default, and the largest values that glibc gives its thresholds by itself, until one is set."""


def ray_runtime_env(resources: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """The runtime environment of Ray's workers with these resources.

    They train in a thread. On CPUs it must take its memory from the main arena, the only one that keeps large blocks:
    the heaps of the others hold 64 MB, and larger blocks are mapped anew each time.
    """
    return {} if resources.get("GPU") else {"env_vars": {"MALLOC_ARENA_MAX": "1"}}


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """While it lasts, memory that is freed is not given back to the kernel; at its end, what is free is.

    One at a time: the end of a second one ends the first. The process is larger meanwhile, as freed blocks do not
    always fit what is asked for next. Nothing is done where the device is no CPU, or the C library not glibc.
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
