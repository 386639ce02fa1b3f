"""What the tests of datasets share: paths of the real images, and short ways to read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_trainer.data.build import BuildResult
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.records import Found, Labels
from fovea_trainer.store import StorePath

EXAMPLES = Path(__file__).parents[3] / "examples/data"
BCCD = EXAMPLES / "bccd/BCCD"
MEMBRANE = EXAMPLES / "membrane"

Build = Callable[..., BuildResult]


def detection(root: Path, format: str = "PascalVOC", **fields: object) -> dict[str, object]:
    """Spec of a Dataset with one source."""
    return {
        "task": "Detection",
        "sources": [{"name": "lab", "uri": f"file://{root}", "format": format}],
        **fields,
    }


def read_all(format: Format, root: Path, task: Task = Task.DETECTION, **options: object) -> list[tuple[Found, Labels]]:
    """All images of a folder with their labels."""
    reader = open_reader(format, Tree.of(StorePath.parse(str(root))), Options(task, **options))  # type: ignore[arg-type]
    return [(found, found.labels if found.labels is not None else reader.read(found)) for found in reader.scan()]
