"""Which engine this machine runs, and how it gets it. The driver and TensorRT are doubles here, compiled with their C
interfaces: the machine that tests run on has neither."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from fovea_api.engine import ENGINES, MANIFEST, PLAN, EngineKey, EngineManifest
from fovea_api.errors import CorruptData, NotSupported
from fovea_serving.bundle import file_digest
from fovea_serving.engines import Gpu, NoEngine, NoGpu, engines_beside, fetch_engine, gpu, read_engine, tensorrt_version
from fovea_store import StorePath

MODEL = f"sha256-{'1' * 64}"
KEY = EngineKey(model=MODEL, tensorrt="10.13.3.9", compute_capability="9.0")
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA L4", length); return device != 7; }
int cuDeviceGetAttribute(int *value, int name, int device) { *value = name == 75 ? 8 : 9; return device != 7; }
"""
TENSORRT = """
int getInferLibMajorVersion() { return 10; } int getInferLibMinorVersion() { return 13; }
int getInferLibPatchVersion() { return 3; } int getInferLibBuildVersion() { return 9; }
"""


def library(folder: Path, source: str, *definitions: str) -> str:
    """A shared library of C code; one that is loaded keeps its file's name for good."""
    file = folder / f"library-{len(list(folder.iterdir()))}.so"
    command = ["cc", "-shared", "-fPIC", *definitions, "-x", "c", "-", "-o", str(file)]
    subprocess.run(command, input=source, text=True, check=True)
    return str(file)


def store(root: Path, key: EngineKey = KEY, plan: bytes = b"an engine") -> StorePath:
    """A store with an engine; its folder of engines."""
    engines = StorePath.parse(str(root)) / ENGINES
    folder = engines / key.folder
    (folder / PLAN).write_bytes(plan)
    manifest = EngineManifest(
        **dict(key),
        gpu="NVIDIA H100",
        max_batch=32,
        bytes=len(plan),
        sha256=file_digest((folder / PLAN).local_path()),
        created_at=datetime.now(UTC),
    )
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest.to_dict()))
    return engines


def test_the_gpu_is_what_its_driver_says(tmp_path: Path) -> None:
    assert gpu(library(tmp_path, DRIVER, "-DSTATUS=0")) == Gpu("NVIDIA L4", "8.9")


def test_without_a_driver_or_a_device_there_is_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(NoGpu, match="no driver"):
        gpu(str(tmp_path / "libcuda.so.1"))
    with pytest.raises(NoGpu, match="error 100"):
        gpu(library(tmp_path, DRIVER, "-DSTATUS=100"))


def test_the_version_of_tensorrt_is_that_of_its_library(tmp_path: Path) -> None:
    assert tensorrt_version(library(tmp_path, TENSORRT)) == "10.13.3.9"
    with pytest.raises(NotSupported, match="use an image with TensorRT"):
        tensorrt_version(str(tmp_path / "libnvinfer.so.10"))
    with pytest.raises(NotSupported, match="getInferLibMajorVersion"):
        tensorrt_version(library(tmp_path, "int old;"))


def test_an_engine_is_found_under_its_key_beside_the_bundle(tmp_path: Path) -> None:
    engines = store(tmp_path / "trainingjob" / "cells")
    bundle = f"{tmp_path}/trainingjob/cells/bundles/sha256-{'2' * 64}/"
    assert engines_beside(bundle) == engines
    fetched = fetch_engine(engines, KEY, tmp_path / PLAN)
    assert (fetched.file.read_bytes(), fetched.manifest.gpu) == (b"an engine", "NVIDIA H100")


@pytest.mark.parametrize("bundle", ["/bundle", "/models/cells/1"])
def test_a_bundle_that_lies_alone_has_no_engines_beside_it(bundle: str) -> None:
    with pytest.raises(NoEngine, match="give such a bundle's URI"):
        engines_beside(bundle)


@pytest.mark.parametrize(
    "other",
    [{"tensorrt": "10.13.3.10"}, {"compute_capability": "8.9"}, {"model": f"sha256-{'3' * 64}"}],
    ids=lambda other: next(iter(other)),
)
def test_an_engine_for_something_else_is_not_taken_and_what_there_is_is_named(
    tmp_path: Path, other: dict[str, str]
) -> None:
    engines = store(tmp_path)
    there = "none" if "model" in other else "tensorrt-10.13.3.9-sm90"
    with pytest.raises(NoEngine, match=rf"of this model there are: {there} "):
        fetch_engine(engines, KEY.model_copy(update=other), tmp_path / PLAN)


def test_an_engine_that_was_changed_is_refused(tmp_path: Path) -> None:
    engines = store(tmp_path)
    (engines / KEY.folder / PLAN).write_bytes(b"another")
    with pytest.raises(CorruptData, match="SHA-256"):
        fetch_engine(engines, KEY, tmp_path / PLAN)
    (engines / KEY.folder / MANIFEST).write_text("gpu: 1")
    with pytest.raises(CorruptData, match="no description"):
        read_engine(engines / KEY.folder)
