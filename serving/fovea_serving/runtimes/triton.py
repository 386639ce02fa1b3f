"""A model repository for Triton, written from a bundle: `config.pbtxt` and the exported file.

    <repository>/model/config.pbtxt
    <repository>/model/1/model.onnx, with the Python backend model.py too; or model.plan

The network alone runs in Triton, because a stock server has none of our code: the gateway prepares the images and reads
the outputs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import onnxruntime as ort
from fovea_api.engine import PLAN, EngineKey
from fovea_api.errors import FoveaError, InvalidInput
from fovea_api.modeldeployment import Inference
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from fovea_serving.backends.base import INPUT, InvalidModel
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.bundle import MODEL as MODEL_FILE
from fovea_serving.bundle import Bundle
from fovea_serving.engines import Engine, engines_beside, fetch_engine, gpu, model_digest, tensorrt_version
from fovea_serving.fetch import fetch_bundle
from fovea_serving.pipeline.predictions import prediction_type

MODEL = "model"
"""Name of the one model of a repository."""
VERSION = "1"
THREADS = "intra_op_thread_count"
"""The onnxruntime backend's parameter of that name; our Python model reads the same."""


class TritonBackend(StrEnum):
    """What runs the exported file inside of Triton."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """How a bundle is served.

    Args:
        backend: What runs it; NVIDIA's image has all of them, the wheel of PyPI has `python` alone.
        precision: FP32 or INT8. None: the bundle's own choice.
        inference: How requests are put together and when they are given up.
        instances: Copies of the model that run at once; on a CPU they share its threads.
    """

    backend: TritonBackend = TritonBackend.ONNXRUNTIME
    precision: str | None = None
    inference: Inference = field(default_factory=Inference)
    instances: int = 1


def prepare(
    uri: str, root: Path, options: TritonOptions, credentials: str | None = None, public_key: Path | None = None
) -> None:
    """Fetches a bundle, and for TensorRT the engine for this machine, and writes their repository.

    Raises:
        InvalidInput: TensorRT is asked for and the bundle must be signed: nobody signs an engine.
        NoGpu, NotSupported, NoEngine: this machine cannot run an engine, or none was built for it.

    See `fetch_bundle` and `write_repository` for what these raise.
    """
    with TemporaryDirectory(prefix="fovea-bundle-") as folder:
        bundle = fetch_bundle(uri, Path(folder), credentials, public_key)
        engine: Engine | None = None
        if options.backend is TritonBackend.TENSORRT:
            if public_key is not None:
                remedy = f"use the backend {TritonBackend.ONNXRUNTIME}"
                raise InvalidInput("engines are not signed, and the model must be", str(public_key), remedy)
            engine = fetch_engine(engines_beside(uri, credentials), local_key(bundle, options), Path(folder) / PLAN)
        write_repository(bundle, root, options, engine)


def local_key(bundle: Bundle, options: TritonOptions) -> EngineKey:
    """The key of the engine that this machine runs. Raises NoGpu, NotSupported, InvalidBundle."""
    return EngineKey(
        model=model_digest(_onnx(bundle, options)),
        tensorrt=tensorrt_version(),
        compute_capability=gpu().compute_capability,
    )


def serve(root: Path, arguments: Sequence[str] = ()) -> NoReturn:
    """Becomes the tritonserver of the path. Raises MissingProgram.

    A model that cannot be loaded ends the server, so that its pod says why.
    """
    words = ["tritonserver", f"--model-repository={root}", "--exit-on-error=true", *arguments]
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        remedy = "use an image that has it, or write the repository alone (--write-only) for a server elsewhere"
        raise MissingProgram("there is no tritonserver on the PATH", None, remedy) from None


class MissingProgram(FoveaError):
    """A program that this starts is not installed."""


def write_repository(bundle: Bundle, root: Path, options: TritonOptions, engine: Engine | None = None) -> None:
    """Writes a model repository; one that is there is replaced.

    Args:
        bundle: What is served.
        root: Folder of the repository.
        options: How it is served.
        engine: With the backend TensorRT: the engine of the bundle's model.

    Raises:
        InvalidBundle: the bundle has no such precision.
        InvalidModel: the exported file does not fit into Triton's batching, or the engine takes smaller batches.
    """
    assert (engine is not None) is (options.backend is TritonBackend.TENSORRT)
    config = model_config(bundle, options)
    if engine is not None and engine.manifest.max_batch < config.max_batch_size:
        raise InvalidModel(
            f"the engine takes {engine.manifest.max_batch} images at once, not {config.max_batch_size}",
            None,
            f"lower inference.batching.maxSize to {engine.manifest.max_batch}",
        )
    model = _onnx(bundle, options) if engine is None else engine.file
    folder = root / MODEL
    shutil.rmtree(folder, ignore_errors=True)
    version = folder / VERSION
    version.mkdir(parents=True)
    shutil.copyfile(model, version / (MODEL_FILE if engine is None else PLAN))
    if options.backend is TritonBackend.PYTHON:
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


def model_config(bundle: Bundle, options: TritonOptions) -> pb.ModelConfig:
    """The configuration of the model, a message of Triton's own schema. Raises InvalidModel, InvalidBundle.

    Batches are Triton's: the first dimension of what a client sends is the number of images. There is no queue policy:
    with a timeout or a largest size Triton's batcher prepares no batch ahead, and misses a request that comes just
    before its model is idle again; that one waits for half a second. Who asks has a deadline, which cancels the call.
    """
    manifest, inference = bundle.manifest, options.inference
    size = manifest.preprocessing.size
    shapes = output_shapes(_onnx(bundle, options), prediction_type(manifest.task).outputs)
    image = [3, size.height, size.width]
    batch = inference.batching.max_size
    config = pb.ModelConfig(
        name=MODEL,
        backend=options.backend.value,
        max_batch_size=batch,
        input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_FP32, dims=image)],
        output=[pb.ModelOutput(name=name, data_type=pb.TYPE_FP32, dims=dims) for name, dims in shapes.items()],
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=round(inference.batching.max_delay_milliseconds * 1000)
        ),
        instance_group=[pb.ModelInstanceGroup(count=options.instances, kind=_kind(options.backend))],
        model_warmup=[_warmup(count, image) for count in sorted({1, batch})],
    )
    if options.backend is not TritonBackend.TENSORRT:
        config.parameters[THREADS].string_value = str(max(1, usable_cpus() // options.instances))
    return config


def output_shapes(model: Path, names: tuple[str, ...]) -> dict[str, list[int]]:
    """Dimensions of an ONNX file's outputs without the batch, -1 where they vary. Raises InvalidModel."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is read, not run
    settings.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises types of its own, straight below Exception
        raise InvalidModel(f"ONNX Runtime cannot load the model: {error}", str(model), "export it again") from error
    shapes = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
    if missing := [name for name in (INPUT, *names) if name not in shapes]:
        raise InvalidModel(f"the model has no {', '.join(missing)}", str(model), "export it again")
    if isinstance(shapes[INPUT][0], int):
        remedy = "export it with a batch of any size, or serve it with the runtime RayServe"
        raise InvalidModel(f"the model takes {shapes[INPUT][0]} images at once and no other number", str(model), remedy)
    return {name: [size if isinstance(size, int) else -1 for size in shapes[name][1:]] for name in names}


def _onnx(bundle: Bundle, options: TritonOptions) -> Path:
    return bundle.model_of(options.precision) if options.precision else bundle.model


def _kind(backend: TritonBackend) -> pb.ModelInstanceGroup.Kind:
    """Auto takes the GPUs where there are any; the Python backend's processes choose for themselves."""
    return {
        TritonBackend.ONNXRUNTIME: pb.ModelInstanceGroup.KIND_AUTO,
        TritonBackend.TENSORRT: pb.ModelInstanceGroup.KIND_GPU,
        TritonBackend.PYTHON: pb.ModelInstanceGroup.KIND_CPU,
    }[backend]


def _warmup(count: int, image: list[int]) -> pb.ModelWarmup:
    """A batch of black images, run before the model is ready: kernels are chosen and memory is allocated then."""
    sample = pb.ModelWarmup.Input(data_type=pb.TYPE_FP32, dims=image, zero_data=True)
    return pb.ModelWarmup(name=f"batch of {count}", batch_size=count, inputs={INPUT: sample})
