"""Batches that went out for review and that nobody has reviewed: their images wait for a label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fovea_trainer.data.formats import Tree
from fovea_trainer.data.records import FileImage, Labels, SourceImage


@dataclass(frozen=True)
class Unreviewed:
    """Reader of a source in which nothing but such batches lies."""

    tree: Tree

    def scan(self) -> Iterator[SourceImage]:
        for path in self.tree.images:
            yield SourceImage(path, FileImage(path), labels=Labels(waits=True))

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")
