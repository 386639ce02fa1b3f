"""A small real bundle: a hand-made ONNX network that says how red, green and blue an image is."""

from __future__ import annotations

import subprocess
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
from fovea_api.modeldeployment import Inference
from fovea_api.trainingjob import Resize, Size
from fovea_serving.bundle import bundle_digest, file_digest
from fovea_serving.gateway.settings import Settings
from fovea_serving.signature import SIGNATURE, sign_bundle
from onnx import TensorProto, helper, numpy_helper

from tests.unit.serving import chromium

browser = chromium.browser
DIGEST = "sha256-" + "0" * 64
PATIENT = Inference(timeout_seconds=600)
"""For requests of which nobody tests how long they may take: the machine may stand still for a while."""
UNHURRIED = Settings(max_wait_seconds=600)
"""Likewise: none is refused because the machine is slow."""


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


def write_detector(path: Path) -> None:
    """Two boxes in every image, of class 0 and 2; the brighter the image, the higher their scores."""
    constant = {
        "scores of black": np.array([[[0.9, 0, 0], [0, 0, 0.6]]], np.float32),
        "two boxes": np.array([[[4, 4, 16, 16], [8, 8, 30, 20]]], np.float32),
        "axes": np.array([1, 2, 3]),
        "first": np.array([0]),
        "second": np.array([1]),
        "shape of boxes": np.array([2, 4]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean of all"], keepdims=1),
        helper.make_node("Squeeze", ["mean of all", "second"], ["mean"]),
        helper.make_node("Sigmoid", ["mean"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "scores of black"], ["scores"]),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "second"], ["images"]),
        helper.make_node("Concat", ["images", "shape of boxes"], ["shape of all boxes"], axis=0),
        helper.make_node("Expand", ["two boxes", "shape of all boxes"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 24, 32])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2, 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constant.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))


def manifest_of(folder: Path, task: Task = Task.CLASSIFICATION) -> BundleManifest:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "bundle.yaml")
    return BundleManifest(
        task=task,
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


def key_pair(folder: Path) -> tuple[Path, Path]:
    private, public = folder / "key.pem", folder / "cosign.pub"
    new = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private)]
    subprocess.run(new, check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)
    return private, public


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key and its public one, made as users make them."""
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Those of somebody else."""
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(bundle: Path, keys: tuple[Path, Path]) -> Path:
    """The bundle, signed."""
    (bundle / SIGNATURE).write_bytes(sign_bundle(bundle, keys[0]))
    return bundle


def write_bundle(root: Path, write: Callable[[Path], object], task: Task, **fields: object) -> Path:
    """A bundle below the folder, of the files that are written into the folder given; fields of its manifest."""
    folder = root / "bundle"
    folder.mkdir()
    write(folder)
    manifest = manifest_of(folder, task).model_copy(update=fields)
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
    return folder.rename(root / bundle_digest(manifest))


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a detector, whose own confidence threshold is 0.5."""
    root = tmp_path_factory.mktemp("detector")
    return write_bundle(root, lambda folder: write_detector(folder / "model.onnx"), Task.DETECTION)


@pytest.fixture
def bundle_of_two(tmp_path: Path) -> Path:
    """A classifier that takes two images at once and no other number."""
    return write_bundle(tmp_path, lambda folder: write_model(folder / "model.onnx", 2), Task.CLASSIFICATION)


@pytest.fixture
def describe() -> Callable[[Path, Task], BundleManifest]:
    """The manifest of a folder's files."""
    return manifest_of


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
