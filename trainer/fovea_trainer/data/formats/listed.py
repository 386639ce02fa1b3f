"""Where the images lie that a label file lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeVar

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Located, Tree, in_split_of
from fovea_trainer.data.formats.json_stream import shown
from fovea_trainer.data.formats.pairs import Images
from fovea_trainer.data.text import composed


class Listed(Protocol):
    """An entry of a label file."""

    @property
    def name(self) -> str:
        """The image as the file names it."""
        ...

    @property
    def place(self) -> str: ...


AnyListed = TypeVar("AnyListed", bound=Listed)


def located_entries(
    tree: Tree, entries: Iterable[AnyListed], file: str, stems: Images | None = None
) -> tuple[dict[str, list[AnyListed]], list[Finding]]:
    """The entries of each image, by its path, and those whose image is not there.

    Args:
        tree: The source.
        entries: What the file lists.
        file: The label file.
        stems: The images, where the file may name them without their suffix.
    """
    exact: dict[str, list[AnyListed]] = defaultdict(list)
    close: dict[str, list[AnyListed]] = defaultdict(list)
    findings: list[Finding] = []
    for entry in entries:
        try:
            place = tree.locate(entry.name, file, "images") or (_by_stem(stems, entry.name, file) if stems else None)
        except InvalidInput as error:
            findings.append(Finding(FindingKind.MISSING_IMAGE, entry.place, error.message, error.remedy or ""))
            continue
        if place is None:
            message = f"the image {shown(entry.name)} is not in the source"
            findings.append(Finding(FindingKind.MISSING_IMAGE, entry.place, message))
        else:
            (exact if place.exact else close)[place.path].append(entry)
    for path, others in close.items():
        if path not in exact:
            exact[path] = others
            continue
        for entry in others:
            message = f"the image {shown(entry.name)} is not in the source; {path} is another's"
            findings.append(Finding(FindingKind.MISSING_IMAGE, entry.place, message))
    return exact, findings


def _by_stem(images: Images, name: str, file: str) -> Located | None:
    """The image of a name without suffix. Raises InvalidInput where there are several."""
    stem = composed(name.strip().replace("\\", "/").rpartition("/")[2])
    named = in_split_of(file, images.by_stem.get(stem, ()))
    if len(named) > 1:
        raise InvalidInput(f"{name!r} could be {' or '.join(named[:3])}", None, "write more of the path")
    return Located(named[0], False) if named else None
