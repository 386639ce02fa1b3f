"""Bundles that a rollout must find out: the demo's own, with another network of the same form."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import yaml
from fovea_api.bundle import MANIFEST, BundleFile, BundleManifest
from fovea_serving.bundle import bundle_digest, file_digest, load_bundle
from fovea_serving.pipeline import Preprocess, decode
from fovea_serving.pipeline.golden import golden_image
from fovea_store import StorePath
from onnx import TensorProto, helper, numpy_helper

Edit = Callable[[onnx.ModelProto, BundleManifest], bytes]
"""Another network in the place of a bundle's."""
_OUTPUT = "scores"
_MEAN, _SIDE, _CHANNELS = "mean of all pixels", 160, 16


def with_network(source: StorePath, folder: StorePath, edit: Edit) -> str:
    """Writes a bundle below a folder whose network is edited and whose digests are right again; gives its URI."""
    with TemporaryDirectory() as name:
        local = Path(name) / source.name
        source.download_tree(local)
        bundle = load_bundle(local)
        bundle.model.write_bytes(edit(onnx.load(bundle.model), bundle.manifest))
        files = tuple(_entry(local, each.path) for each in bundle.manifest.files)
        manifest = bundle.manifest.model_copy(update={"files": files})
        (local / MANIFEST).write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
        target = folder / bundle_digest(manifest)
        target.upload_tree(local, last=MANIFEST)
    return str(target)


def _entry(folder: Path, path: str) -> BundleFile:
    file = folder / path
    return BundleFile(path=path, bytes=file.stat().st_size, sha256=file_digest(file))


def unloadable(network: onnx.ModelProto, manifest: BundleManifest) -> bytes:
    """No network at all."""
    return b"this is no network"


def slow(seconds: float) -> Edit:
    """The same answers, some seconds later on a core of this machine: convolutions whose result counts nothing."""

    def edit(network: onnx.ModelProto, manifest: BundleManifest) -> bytes:
        size = manifest.preprocessing.size
        image = np.zeros((1, 3, size.height, size.width), np.float32)
        few = _seconds(_with_loop(network, 20), image) - _seconds(network, image)
        return _with_loop(network, max(20, round(20 * seconds / max(few, 1e-3)))).SerializeToString()

    return edit


def wrong(photo: bytes) -> Edit:
    """Scores that are no numbers, for images as bright as the photo, or as dark, and not for the golden image: nothing
    notices until it is asked in production."""

    def edit(network: onnx.ModelProto, manifest: BundleManifest) -> bytes:
        prepare = Preprocess.from_manifest(manifest.preprocessing)
        golden, real = (float(prepare(decode(each))[0].mean()) for each in (golden_image(), photo))
        middle = (golden + real) / 2
        nodes = [
            helper.make_node("Greater" if real > golden else "Less", [_MEAN, "middle brightness"], ["as the photo"]),
            helper.make_node("Where", ["as the photo", "no number", "nothing added"], ["added to scores"]),
        ]
        values = {
            "middle brightness": np.float32(middle),
            "no number": np.float32(np.nan),
            "nothing added": np.float32(0),
        }
        return _added(network, nodes, values).SerializeToString()

    return edit


def _seconds(network: onnx.ModelProto, image: np.ndarray) -> float:
    """The time of one answer with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"image": image})
    begun = time.perf_counter()
    session.run(None, {"image": image})
    return time.perf_counter() - begun


def _with_loop(network: onnx.ModelProto, rounds: int) -> onnx.ModelProto:
    shape = (1, _CHANNELS, _SIDE, _SIDE)

    def value(name: str, kind: int, dims: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dims)

    body = helper.make_graph(
        [
            helper.make_node("Conv", ["before", "kernel of planes"], ["after"], pads=[1, 1, 1, 1]),
            helper.make_node("Identity", ["go on"], ["still go on"]),
        ],
        "round",
        [value("number", TensorProto.INT64, []), value("go on", TensorProto.BOOL, []), value("before", 1, shape)],
        [value("still go on", TensorProto.BOOL, []), value("after", 1, shape)],
    )
    nodes = [
        helper.make_node("Expand", [_MEAN, "shape of planes"], ["plane"]),
        helper.make_node("Loop", ["rounds of planes", "always true", "plane"], ["planes"], body=body),
        helper.make_node("ReduceMean", ["planes"], ["mean of planes"], keepdims=0),
        helper.make_node("Mul", ["mean of planes", "zero of planes"], ["added to scores"]),
    ]
    kernel = np.full((_CHANNELS, _CHANNELS, 3, 3), 1 / (9 * _CHANNELS), np.float32)
    values = {
        "shape of planes": np.array(shape),
        "rounds of planes": np.array(rounds),
        "always true": np.array(True),
        "kernel of planes": kernel,
    }
    return _added(network, nodes, values | {"zero of planes": np.float32(0)})


def _added(
    network: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], values: dict[str, np.ndarray | np.generic]
) -> onnx.ModelProto:
    """The network with `added`, which the nodes make of the mean of all pixels, added to its scores."""
    changed = onnx.ModelProto()
    changed.CopyFrom(network)
    graph = changed.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == _OUTPUT:
                node.output[index] = "scores before"
        for index, name in enumerate(node.input):
            if name == _OUTPUT:
                node.input[index] = "scores before"
    graph.node.append(helper.make_node("ReduceMean", ["image"], [_MEAN], keepdims=0))
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Add", ["scores before", "added to scores"], [_OUTPUT]))
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    return changed
