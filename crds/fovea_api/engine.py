"""TensorRT engine: a model built for one type of GPU, in a folder of the store that its key names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fovea_api.common import Digest, Int, Model, Sha256, Time

MANIFEST = "engine.yaml"
"""Written last: an engine without it does not exist."""
PLAN = "model.plan"
"""The serialized engine."""
ENGINES = "engines"
"""Folder of the engines, beside that of the bundles."""

TensorRtVersion = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+){3}$")]


class EngineKey(Model):
    """What an engine is for: no other TensorRT and no other type of GPU runs it."""

    model: Digest
    """Digest of the ONNX file that it was built from."""
    tensorrt: TensorRtVersion
    """Version of TensorRT, such as 10.13.3.9."""
    compute_capability: Annotated[str, Field(max_length=8, pattern=r"^[0-9]+\.[0-9]+$")]
    """Compute capability of the GPU, such as 9.0."""

    @property
    def folder(self) -> str:
        """Path of its folder below `ENGINES`."""
        return f"{self.model}/tensorrt-{self.tensorrt}-sm{self.compute_capability.replace('.', '')}"


class EngineSummary(EngineKey):
    """A built engine."""

    gpu: Annotated[str, Field(max_length=128)]
    """Name of the GPU that it was built on."""
    max_batch: Annotated[Int, Field(ge=1)]
    """Maximum number of images per batch."""
    bytes: Annotated[Int, Field(ge=1)]
    """Size in bytes."""


class EngineManifest(EngineSummary):
    """Content of `engine.yaml`."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    sha256: Sha256
    """SHA-256 of the engine, in hexadecimal."""
    created_at: Time
    """When it was built."""

    def summary(self) -> EngineSummary:
        """The part that a status shows."""
        return EngineSummary.model_validate({name: getattr(self, name) for name in EngineSummary.model_fields})
