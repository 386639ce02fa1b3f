"""What a bundle says of itself: its manifest, and what the model came from."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

from fovea_api.bundle import (
    BundleFile,
    BundleFormat,
    BundleManifest,
    BundleMetrics,
    DatasetLineage,
    Lineage,
)
from fovea_serving.bundle import file_digest

from fovea_trainer.export import exporter
from fovea_trainer.training.state import State
from fovea_trainer.training.trained import Trained
from fovea_trainer.training.training_run import TrainingRun

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "ray", "fovea")


def describe_lineage(run: TrainingRun, trained: Trained, state: State) -> Lineage:
    """Everything that the model came from."""
    dataset = run.spec.inputs.dataset
    assert dataset is not None
    versions = {name: package_version(name) for name in LIBRARIES}
    for name in trained.recipe.export.formats:
        versions |= exporter(name).libraries()
    return Lineage(
        dataset=DatasetLineage(name=dataset.name, version=dataset.version),
        recipe=trained.recipe.to_dict(),
        identity=run.spec.identity,
        run=run.environment.name,
        job=run.spec.owner.name,
        base_weights=state.base_digest or trained.recipe.model.pretrained.weights or "None",
        base_uri=state.base_uri or None,
        parent_run=state.base_run or None,
        teacher=run.spec.inputs.teacher.digest if run.spec.inputs.teacher is not None else None,
        candidates=run.candidates or None,
        precision=state.precision or None,
        best_epoch=state.best_epoch,
        image=run.spec.image,
        versions={"python": platform.python_version(), **versions},
    )


def describe_bundle(
    trained: Trained,
    lineage: Lineage,
    folder: Path,
    metrics: BundleMetrics,
    formats: Sequence[BundleFormat],
    quantized: bool,
) -> BundleManifest:
    """The manifest of the files in a folder; `quantized`: the 8-bit model is the one to be served."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return BundleManifest(
        task=trained.network.task,
        architecture=trained.recipe.model.architecture,
        classes=trained.version.manifest.classes,
        preprocessing=trained.preprocess.to_manifest(),
        postprocessing=trained.postprocess.to_manifest(),
        precision="INT8" if quantized else None,
        metrics=metrics,
        formats=tuple(formats) or None,
        problem=trained.version.manifest.problem,
        lineage=lineage,
        files=tuple(
            BundleFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_digest(path))
            for path in files
        ),
        created_at=datetime.now(UTC),
    )
