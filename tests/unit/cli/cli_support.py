"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result

Fovea = Callable[..., Result]


@dataclass(frozen=True)
class Trained:
    """A store after `fovea train`."""

    manifest: Path
    pictures: Path
    store: Path
    result: Mapping[str, Any]

    @property
    def bundle(self) -> Path:
        return Path(self.result["artifact"])


FORMATS = ["OpenVINO", "StateDict", "ONNX", "ExportedProgram"]


def write_manifest(path: Path, pictures: Path, **spec: object) -> Path:
    """A Dataset of the folder and a TrainingJob of one epoch; `spec` replaces fields of the latter."""
    dataset = {
        "task": "Classification",
        "sources": [{"name": "lab", "uri": f"file://{pictures}", "format": "ImageFolder"}],
        "splits": {"method": "FromSource", "keepNearDuplicatesTogether": False},
        "quality": {"nearDuplicates": "Ignore"},
    }
    job = {
        "datasetRef": {"name": "colours"},
        "model": {
            "architecture": "resnet18",
            "options": {"width": 0.125, "stem": "Small"},
            "pretrained": {"weights": "None"},
        },
        "input": {"size": {"width": 32, "height": 32}},
        "training": {"epochs": 1, "batchSize": 8, "precision": "FP32"},
        "evaluation": {"splits": ["test"]},
        "export": {"formats": FORMATS},
        "successCriteria": [{"metric": "size/megabytes", "max": 100}],
        **spec,
    }
    objects = [
        {"apiVersion": "fovea.dev/v1alpha1", "kind": kind, "metadata": {"name": "colours"}, "spec": content}
        for kind, content in (("Dataset", dataset), ("TrainingJob", job))
    ]
    path.write_text(yaml.safe_dump_all(objects))
    return path
