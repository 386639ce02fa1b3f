"""Which annotation file is of which image, where each image has one of its own: by name, and by how near they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import ANNOTATION_BYTES, Tree
from fovea_trainer.data.text import composed

READERS = 16
"""Annotation files that are read at once to learn which images they name; stores answer slowly."""
FAR = 3
"""Distance of files whose folders have nothing to do with each other."""


@dataclass(frozen=True)
class Images:
    """The images that annotation files can be of."""

    paths: Sequence[str]

    @cached_property
    def by_stem(self) -> Mapping[str, list[str]]:
        """The images of each name, without its folders and suffix."""
        stems: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            stems[stem_of(path)].append(path)
        return stems

    def near(self, annotation: str, stem: str, name: str = "") -> str | None:
        """The image of a stem that is nearest to an annotation file; with the very name or path first.

        None where there is none, or where several are as near.
        """
        images = self.by_stem.get(stem, ())
        exact = [path for path in images if f"/{composed(path)}".endswith(f"/{composed(name)}")] if name else []
        ranked = sorted((_distance(annotation, path), path) for path in exact or images)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return None
        # Another folder's image of that name is meant only where the folders do not say otherwise.
        return ranked[0][1] if ranked[0][0] < FAR or len(images) == 1 else None


def paired(
    tree: Tree, images: Sequence[str], pairs: Mapping[str, str | None], limit: int = ANNOTATION_BYTES
) -> Iterator[tuple[str, str | None] | Finding]:
    """Each image with its annotation file, None where it has none; and what is wrong with the others.

    Args:
        tree: The source.
        images: The images.
        pairs: The image of each annotation file, None where it is not there.
        limit: Largest annotation file, in bytes.
    """
    claims: dict[str, list[str]] = defaultdict(list)
    for annotation, image in pairs.items():
        if image is None:
            yield Finding(FindingKind.MISSING_IMAGE, annotation, "its image is not in the source")
        else:
            claims[image].append(annotation)
    for path in images:
        of_image, others = _own(tree, path, claims.get(path, ()), limit)
        for other in others:
            yield Finding(FindingKind.ORPHAN_LABEL, other, f"{path} has its labels in {of_image}")
        if of_image is None and path in claims:
            message = f"{path} has labels in {' and in '.join(claims[path][:3])}, which differ"
            tree.opened.add(path)  # a finding already
            yield Finding(FindingKind.LISTED_TWICE, path, message)
        else:
            yield path, of_image


def stem_of(path: str) -> str:
    """A file's name without folders and suffix, its letters composed."""
    return composed(PurePosixPath(path).stem)


def _own(tree: Tree, image: str, annotations: Sequence[str], limit: int) -> tuple[str | None, list[str]]:
    """The annotation file of an image, and the others that claim it. None where they disagree with equal right."""
    ranked = sorted((_distance(path, image), path) for path in annotations)
    if not ranked:
        return None, []
    best = [path for distance, path in ranked if distance == ranked[0][0]]
    if len(best) > 1 and len({(tree / path).read_bytes(limit) for path in best}) > 1:
        return None, []
    return best[0], [path for _, path in ranked if path != best[0]]


def _distance(annotation: str, image: str) -> int:
    """How far an image lies from an annotation file: 0 beside it, 1 in the folder that stands for its own by the
    format's rule, 2 in another folder of the same place, FAR elsewhere."""
    ours, theirs = annotation.split("/")[:-1], image.split("/")[:-1]
    if ours == theirs:
        return 0
    longest = max(len(ours), len(theirs))
    if len(ours) == len(theirs):
        different = [(a.lower(), b.lower()) for a, b in zip(ours, theirs, strict=True) if a != b]
        if different == [("annotations", "jpegimages")] or different == [("annotations", "images")]:
            return 1
        return 2 if len(different) == 1 else FAR
    return 2 if abs(len(ours) - len(theirs)) == 1 and longest == 1 else FAR
