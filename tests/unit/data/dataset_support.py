"""What the tests of datasets share: paths of the real images, and short ways to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.run import Progress, RunResult
from fovea_store import StorePath
from fovea_trainer.data.build import BuildResult
from fovea_trainer.data.findings import Finding
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.read import Checked, OpenSource, check
from fovea_trainer.data.records import Labels, SourceImage

EXAMPLES = Path(__file__).parents[3] / "examples/data"
BCCD = EXAMPLES / "bccd/BCCD"
MEMBRANE = EXAMPLES / "membrane"

Build = Callable[..., BuildResult]


class Listener:
    """Keeps the stages that it is told."""

    def __init__(self) -> None:
        self.stages: list[str | None] = []

    def report(self, progress: Progress) -> None:
        self.stages.append(progress.stage)

    def finish(self, result: RunResult) -> None:
        pass

    @property
    def built(self) -> bool:
        """Whether a version was built, and none adopted."""
        return "Checking" in self.stages


def detection(root: Path, format: str = "PascalVOC", **fields: object) -> dict[str, object]:
    """Spec of a Dataset with one source."""
    return {
        "task": "Detection",
        "sources": [{"name": "lab", "uri": f"file://{root}", "format": format}],
        **fields,
    }


def read_all(
    format: Format, root: Path, task: Task = Task.DETECTION, **options: object
) -> list[tuple[SourceImage, Labels]]:
    """All images of a folder with their labels."""
    reader = open_reader(format, Tree.of(StorePath.parse(str(root))), Options(task, **options))  # type: ignore[arg-type]
    return [
        (found, found.labels if found.labels is not None else reader.read(found))
        for found in reader.scan()
        if isinstance(found, SourceImage)
    ]


@dataclass(frozen=True)
class SourceRead:
    """What was read of a folder."""

    images: Mapping[str, Checked]
    """By name; those that are left out, too."""
    source_findings: tuple[Finding, ...]

    @property
    def boxes(self) -> dict[str, list[tuple[str, float, float, float, float]]]:
        """Class and corners in whole pixels, of the images that are kept."""
        return {
            name: [(box[0], *map(round, box[1:5])) for box in image.content.boxes]  # type: ignore[misc]
            for name, image in self.images.items()
            if image.digest
        }

    @property
    def labels(self) -> dict[str, str | None]:
        """Classes of the images that are kept."""
        return {name: image.content.label for name, image in self.images.items() if image.digest}

    @property
    def splits(self) -> dict[str, str | None]:
        return {name: image.split for name, image in self.images.items() if image.digest}

    @property
    def findings(self) -> list[tuple[str, str]]:
        """Kind and place of all findings, sorted."""
        every = [*self.source_findings, *(finding for image in self.images.values() for finding in image.findings)]
        return sorted((str(finding.kind), finding.place) for finding in every)


def read_source(format: Format, root: Path, task: Task = Task.DETECTION, **options: object) -> SourceRead:
    """Reads and checks all of a folder, as a build does."""
    made = Options(task, **options)  # type: ignore[arg-type]
    tree = Tree.of(StorePath.parse(str(root)))
    source = OpenSource("s", tree, open_reader(format, tree, made), made)
    items = list(source.reader.scan())
    images = [check(source, item) for item in items if isinstance(item, SourceImage)]
    return SourceRead(
        {image.name: image for image in images}, tuple(item for item in items if isinstance(item, Finding))
    )


def draw(file: Path, width: int = 100, height: int = 100, seed: int = 0) -> Path:
    """An image of noise; its suffix says the format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    _, data = cv2.imencode(file.suffix, pixels)
    file.write_bytes(data.tobytes())
    return file


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """A folder of text files, and of drawn images where the text is empty and the name one of an image."""
    for number, (name, content) in enumerate(files.items()):
        file = root / name
        if not content and file.suffix.lower() in (".jpg", ".png", ".tif", ".bmp", ".webp"):
            draw(file, seed=number)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
