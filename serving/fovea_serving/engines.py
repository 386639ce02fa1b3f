"""TensorRT engines in the store: which one this machine can run, and where it lies beside the bundle that it is of.

<TrainingJob's folder>/bundles/<digest>/                            the bundle
<TrainingJob's folder>/engines/<digest of the ONNX file>/<key>/     engine.yaml and model.plan
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from pathlib import Path

import yaml
from fovea_api.engine import ENGINES, MANIFEST, PLAN, EngineKey, EngineManifest
from fovea_api.errors import CorruptData, FoveaError, InvalidInput, NotSupported
from fovea_store import NotFound, StorePath
from pydantic import ValidationError

from fovea_serving.bundle import file_digest

DRIVER = "libcuda.so.1"
"""NVIDIA's driver, which its container runtime brings into a pod that asks for a GPU."""
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver's interface."""
_NAME_BYTES = 128
_BUILD_AGAIN = "delete the folder; the next build makes it anew"


class NoGpu(FoveaError):
    """There is no GPU that a container may use."""


class NoEngine(InvalidInput):
    """The store has no engine for this machine."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU of this machine."""

    name: str
    compute_capability: str
    """Such as 9.0."""


def gpu(driver: str = DRIVER) -> Gpu:
    """The first GPU, as its driver describes it. Raises NoGpu."""
    remedy = "run where NVIDIA's driver is, and ask for a GPU: resources.limits nvidia.com/gpu"
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        raise NoGpu(f"there is no driver of a GPU here: {error}", None, remedy) from error
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    numbers = (ctypes.c_int(), ctypes.c_int())
    for status in (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(name, _NAME_BYTES, device),
        *(
            cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
            for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True)
        ),
    ):
        if status:
            raise NoGpu(f"there is no GPU here that may be used: the driver answers with error {status}", None, remedy)
    return Gpu(name.value.decode(errors="replace"), ".".join(str(number.value) for number in numbers))


def tensorrt_version(library: str | None = None) -> str:
    """Version of the TensorRT that is installed, such as 10.13.3.9, as its library says. Raises NotSupported.

    Args:
        library: The file of libnvinfer; None: the one that the linker finds.
    """
    file = library or ctypes.util.find_library("nvinfer")
    try:
        if file is None:
            raise OSError("libnvinfer is not found")
        known = ctypes.CDLL(file)
        parts = [getattr(known, f"getInferLib{part}Version")() for part in ("Major", "Minor", "Patch", "Build")]
    except (OSError, AttributeError) as error:
        remedy = "use an image with TensorRT 10 or later"
        raise NotSupported(f"there is no TensorRT here whose version is known: {error}", None, remedy) from error
    return ".".join(map(str, parts))


def model_digest(model: Path) -> str:
    """Digest of an ONNX file, as keys of engines have it."""
    return f"sha256-{file_digest(model)}"


def engines_beside(bundle: str, credentials: str | None = None) -> StorePath:
    """The folder of the engines of the TrainingJob that a bundle in the store is of. Raises NoEngine."""
    folders = [*StorePath.parse(bundle, credentials).parents()]
    if len(folders) < 2 or folders[0].name != "bundles":
        raise NoEngine("engines lie beside a TrainingJob's bundles in the store", bundle, "give such a bundle's URI")
    return folders[1] / ENGINES


def read_engine(folder: StorePath) -> EngineManifest | None:
    """What is known of the engine in a folder; None: there is none. Raises CorruptData."""
    file = folder / MANIFEST
    try:
        return EngineManifest.model_validate(yaml.safe_load(file.read_text()))
    except NotFound:
        return None
    except (yaml.YAMLError, ValidationError) as error:
        raise CorruptData(f"no description of an engine: {error}", file.uri, _BUILD_AGAIN) from error


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine on this machine, verified."""

    file: Path
    manifest: EngineManifest


def fetch_engine(engines: StorePath, key: EngineKey, target: Path) -> Engine:
    """Copies the engine of a key to `target` and verifies it.

    Raises:
        NoEngine: there is none; the message has those that there are of the model.
        CorruptData: it is not what its description promises.
    """
    folder = engines / key.folder
    manifest = read_engine(folder)
    if manifest is None:
        others = ", ".join((engines / key.model).folders()) or "none"
        raise NoEngine(
            f"there is no engine for TensorRT {key.tensorrt} and compute capability {key.compute_capability}; "
            f"of this model there are: {others}",
            engines.uri,
            "have it built with export.deferred: [TensorRT] on such a node, or serve ONNX",
        )
    (folder / PLAN).download(target)
    if file_digest(target) != manifest.sha256:
        raise CorruptData(f"the SHA-256 of {PLAN} is not {manifest.sha256}", folder.uri, _BUILD_AGAIN)
    return Engine(target, manifest)
