"""Which backend runs a file, on which device, with how many threads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from fovea_serving.backends import BackendOptions, Device, InvalidModel, open_backend, register
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.backends.onnx_runtime import providers
from numpy.typing import NDArray
from onnx import helper

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OPTIONS = BackendOptions(("logits",))


@pytest.mark.parametrize(
    ("device", "available", "chosen"),
    [
        (None, [CUDA, CPU], [CUDA, CPU]),
        (None, ["AzureExecutionProvider", CPU], [CPU]),
        (Device.CUDA, [CUDA, CPU], [CUDA, CPU]),
        (Device.CPU, [CUDA, CPU], [CPU]),
    ],
)
def test_a_gpu_is_used_where_there_is_one(device: Device | None, available: list[str], chosen: list[str]) -> None:
    assert providers(device, available) == chosen


def model(folder: Path) -> Path:
    image, output = (helper.make_tensor_value_info(name, 1, ["batch", 3, 2, 2]) for name in ("image", "logits"))
    graph = helper.make_graph([helper.make_node("Neg", ["image"], ["logits"])], "g", [image], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


def test_a_device_that_is_asked_for_is_there_or_refused(tmp_path: Path) -> None:
    batch = np.ones((2, 3, 2, 2), np.float32)
    backend = open_backend(model(tmp_path), BackendOptions(("logits",), Device.CPU))
    assert backend.device is Device.CPU
    assert (backend.run(batch)["logits"] == -1).all()
    if CUDA not in __import__("onnxruntime").get_available_providers():
        with pytest.raises(InvalidModel, match="has no CUDA here"):
            open_backend(model(tmp_path), BackendOptions(("logits",), Device.CUDA))


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100000000 100000\n"}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_threads_are_no_more_than_the_quota(tmp_path: Path, files: dict[str, str], quota: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == (quota or len(os.sched_getaffinity(0)))


def test_a_backend_is_one_file_that_registers_itself(tmp_path: Path) -> None:
    class Doubling:
        device, fixed_batch = Device.CPU, None

        def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            return {"logits": batch * 2}

    @register(".doubling")
    def open_doubling(model: Path, options: BackendOptions) -> Doubling:
        return Doubling()

    assert (open_backend(tmp_path / "a.doubling", OPTIONS).run(np.ones((1, 3, 2, 2), np.float32))["logits"] == 2).all()
    with pytest.raises(ValueError, match="registered twice"):
        register(".doubling")(open_doubling)
    with pytest.raises(InvalidModel, match=r"no backend runs such a file \(use one of .*\.onnx"):
        open_backend(tmp_path / "model.engine", OPTIONS)
