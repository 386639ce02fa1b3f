"""Figures of a version, gathered image by image in bounded memory."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from fovea_api.version import ClassSummary
from pydantic import JsonValue

SMALL, MEDIUM = 32.0**2, 96.0**2
"""Areas in square pixels that part small, medium and large objects (COCO)."""
SHARE_BINS = 25
"""Bins of an object's size: the root of its share of the image's area, 0 to 1."""


def size_name(area: float) -> str:
    """COCO's word for an object of this area in square pixels."""
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"


@dataclass(slots=True)
class Statistics:
    """Counts over the images of a version."""

    classes: tuple[str, ...]
    images: int = 0
    annotations: int = 0
    unlabelled: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    class_images: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """By split, images that show a class."""
    class_annotations: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images by width and height, rounded up to 8 pixels."""
    object_sizes: Counter[str] = field(default_factory=Counter)
    object_shares: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    objects_per_image: Counter[int] = field(default_factory=Counter)
    class_pixels: Counter[int] = field(default_factory=Counter)
    ignored_pixels: int = 0
    """Pixels of masks that are of no class."""

    def add(
        self,
        split: str,
        source: str,
        size: tuple[int, int],
        labels: list[int],
        boxes: list[list[float]],
        pixels: dict[int, int] | None,
    ) -> None:
        """Adds an image: split, source, width and height, class of each annotation, boxes, mask pixels by class."""
        width, height = size
        self.images += 1
        self.annotations += len(labels)
        self.unlabelled += not labels
        self.splits[split] += 1
        self.sources[source] += 1
        self.sizes[(-(-width // 8) * 8, -(-height // 8) * 8)] += 1
        self.class_images[split].update(set(labels))
        self.class_annotations.update(labels)
        if pixels is not None:
            self.class_pixels.update(pixels)
            self.ignored_pixels += width * height - sum(pixels.values())
        if boxes or not pixels:
            self.objects_per_image[len(boxes)] += 1
        for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=False):
            area = (x2 - x1) * (y2 - y1)
            self.object_sizes[size_name(area)] += 1
            share = math.sqrt(area / (width * height))
            self.object_shares[label][min(int(share * SHARE_BINS), SHARE_BINS - 1)] += 1

    def class_summaries(self) -> tuple[ClassSummary, ...]:
        """How often each class occurs, in order of the index."""
        images: Counter[int] = sum(self.class_images.values(), Counter())
        return tuple(
            ClassSummary(name=name, images=images[index], annotations=self.class_annotations[index])
            for index, name in enumerate(self.classes)
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form, in a fixed order."""
        pixels = self.class_pixels.total()
        return {
            "images": self.images,
            "annotations": self.annotations,
            "unlabelled": self.unlabelled,
            "splits": _sorted(self.splits),
            "sources": _sorted(self.sources),
            "classes": [
                {
                    "name": summary.name,
                    "images": summary.images,
                    "annotations": summary.annotations,
                    "imagesBySplit": {split: counts[index] for split, counts in sorted(self.class_images.items())},
                    "pixelShare": self.class_pixels[index] / pixels if pixels else None,
                    "sizeHistogram": [self.object_shares[index][bin] for bin in range(SHARE_BINS)],
                }
                for index, summary in enumerate(self.class_summaries())
            ],
            "imageSizes": [
                {"width": width, "height": height, "images": count}
                for (width, height), count in sorted(self.sizes.items())
            ],
            "objectSizes": _sorted(self.object_sizes),
            "objectsPerImage": {str(key): self.objects_per_image[key] for key in sorted(self.objects_per_image)},
        }


def _sorted(counts: Counter[str]) -> dict[str, JsonValue]:
    return {key: counts[key] for key in sorted(counts)}
