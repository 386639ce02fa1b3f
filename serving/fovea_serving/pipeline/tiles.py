"""Images much larger than the network's input: cut into overlapping tiles, whose predictions are merged."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

OVERLAP = 0.2
"""Share of a tile that it has in common with its neighbour: objects up to this size are whole in one of them."""
MIN_TILE = 32
"""Smallest side in pixels."""
MAX_TILES = 1024
"""Tiles of an image at most: what takes longer than any client waits."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image, in its pixels, and how large the image is."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """Its edges, those at the image's own edge moved far away: what touches the others may have been cut."""
        far = 1 << 30
        return (
            self.left if self.left else -far,
            self.top if self.top else -far,
            self.right if self.right < self.width else far,
            self.bottom if self.bottom < self.height else far,
        )


def tile_count(width: int, height: int, side: int) -> int:
    """How many tiles an image is cut into."""
    return len(_starts(width, side)) * len(_starts(height, side))


def tiles_of(width: int, height: int, side: int) -> list[Tile]:
    """Tiles that cover an image, evenly spread, each with at least OVERLAP in common with its neighbours."""
    return [
        Tile(left, top, min(left + side, width), min(top + side, height), width, height)
        for top in _starts(height, side)
        for left in _starts(width, side)
    ]


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    steps = ceil((length - side) / (side * (1 - OVERLAP)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]
