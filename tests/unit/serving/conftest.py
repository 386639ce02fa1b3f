"""A small real bundle: a hand-made ONNX network that says how red, green and blue an image is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from fovea_api.bundle import (
    BundleFile,
    BundleManifest,
    BundleMetrics,
    DatasetLineage,
    Lineage,
    Postprocessing,
    Preprocessing,
)
from fovea_api.common import Task
from fovea_api.trainingjob import Resize, Size
from fovea_serving.bundle import bundle_digest, file_digest
from onnx import TensorProto, helper

DIGEST = "sha256-" + "0" * 64


def write_model(path: Path, batch: int | str = "batch") -> None:
    """logits = mean of each channel."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image", "axes"], ["logits"], keepdims=0)],
        "colour",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 24, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], np.array([2, 3]))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))


def manifest_of(folder: Path) -> BundleManifest:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "bundle.yaml")
    return BundleManifest(
        task=Task.CLASSIFICATION,
        architecture="colour",
        classes=("red", "green", "blue"),
        preprocessing=Preprocessing(
            size=Size(width=32, height=24), resize=Resize.STRETCH, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        postprocessing=Postprocessing(),
        metrics=BundleMetrics(exported={"test/accuracy": 1.0}),
        lineage=Lineage(
            dataset=DatasetLineage(name="colours", version=DIGEST),
            recipe={"model": {"architecture": "colour"}},
            identity=DIGEST,
            run="r-0123456789",
            job="colours",
            best_epoch=1,
        ),
        files=tuple(
            BundleFile(path=str(file.relative_to(folder)), bytes=file.stat().st_size, sha256=file_digest(file))
            for file in files
        ),
        created_at=datetime(2026, 11, 24, tzinfo=UTC),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "evaluation").mkdir(parents=True)
    write_model(folder / "model.onnx")
    (folder / "evaluation" / "test.json").write_text("{}")
    manifest = manifest_of(folder)
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
    return folder.rename(tmp_path / bundle_digest(manifest))


@pytest.fixture
def model_writer() -> Callable[[Path, int | str], None]:
    return write_model


@pytest.fixture
def edit() -> Callable[[Path, Callable[[dict[str, object]], None]], Path]:
    """Changes the content of a bundle's manifest; the folder takes a name that promises no digest."""

    def edit(folder: Path, change: Callable[[dict[str, object]], None]) -> Path:
        folder = folder.rename(folder.with_name("bundle"))
        content = yaml.safe_load((folder / "bundle.yaml").read_text())
        change(content)
        (folder / "bundle.yaml").write_text(yaml.safe_dump(content))
        return folder

    return edit
