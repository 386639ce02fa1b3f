"""Images that were decoded and brought to the input size, kept for the epochs after the first one."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

MEMORY_SHARE = 0.25
"""Share of the container's memory that the images may take: they stay in the page cache, which gives way to others."""
DISK_SHARE = 0.25
"""Share of the free disk that they may take."""
CGROUPS = Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


class ImageCache:
    """Room for images in a file without a name: it ends with the processes that use it, and belongs to one training.

    What does not fit is decoded in every epoch; a part that stays is worth more than one that is always replaced, as
    every image is needed once in an epoch.

    Args:
        folder: A folder on a local disk.
        limit: Bytes that the images may take; MEMORY_SHARE and DISK_SHARE may set a lower limit.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.limit = min(default_limit(folder), limit if limit is not None else sys.maxsize)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # open as long as this object
        self._end = 0

    def reserve(self, sizes: Sequence[tuple[int, int]]) -> Slots:
        """Room for images of these heights and widths, the first ones where there is not enough for all."""
        shapes = np.array(sizes, np.int64).reshape(-1, 2)
        start = self._end + len(shapes)
        ends = start + np.cumsum(shapes.prod(1) * 3)
        count = int(np.searchsorted(ends, self.limit, "right"))
        slots = Slots(self._file, self._end, shapes[:count], np.concatenate([[start], ends])[:count])
        if count:
            self._end = int(ends[count - 1])
        return slots


class Slots:
    """The places of a split's images; the processes of a loader are given the open file."""

    def __init__(self, file: IO[bytes], flags: int, shapes: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        self._file, self._flags, self._shapes, self._starts = file, flags, shapes, starts
        self._full = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_file": open(state["_file"].detach(), "r+b", buffering=0)}  # noqa: SIM115

    def __len__(self) -> int:
        """The images that there is room for."""
        return len(self._shapes)

    def read(self, index: int) -> NDArray[np.uint8] | None:
        """The pixels [height, width, 3] of an image; None: they are not here."""
        if index >= len(self) or os.pread(self._file.fileno(), 1, self._flags + index) != b"\1":
            return None
        height, width = self._shapes[index].tolist()
        pixels = np.empty((height, width, 3), np.uint8)
        read = os.preadv(self._file.fileno(), [pixels.data], int(self._starts[index]))
        return pixels if read == pixels.size else None

    def write(self, index: int, pixels: NDArray[np.uint8]) -> None:
        """Keeps the pixels of an image, where there is room for it. The flag comes last, so that none is read half."""
        if self._full or index >= len(self) or pixels.shape[:2] != tuple(self._shapes[index].tolist()):
            return
        try:
            data = np.ascontiguousarray(pixels)
            if os.pwritev(self._file.fileno(), [data.data], int(self._starts[index])) == data.size:
                os.pwrite(self._file.fileno(), b"\1", self._flags + index)
        except OSError as error:
            log.warning("no more images are kept decoded: %s", error)
            self._full = True


def default_limit(folder: Path, cgroups: Path = CGROUPS) -> int:
    """Bytes for the images of one training, by the memory of the container and the free disk of the folder."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int((cgroups / name).read_text()))
        except (OSError, ValueError):  # no such version of control groups, or "max"
            continue
    return int(min(memory * MEMORY_SHARE, shutil.disk_usage(folder).free * DISK_SHARE))
