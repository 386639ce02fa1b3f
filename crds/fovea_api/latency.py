"""Where a latency was measured, as results and bundles keep it beside the figure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fovea_api.common import Int, Model, Word


class MeasuredOn(Model):
    """Where latency was measured."""

    node: Annotated[str, Field(max_length=253)]
    """Name of the node; of the machine, in a run by hand."""
    cpus: Annotated[Int, Field(ge=1)]
    """Number of CPU threads that the model could use."""
    processor: Word
    """Model of the CPU, as its kernel names it."""
    device: Literal["CPU", "CUDA"]
    """Device that the model was computed on."""

    def __str__(self) -> str:
        what = "a GPU beside " if self.device == "CUDA" else ""
        return f"{what}{self.cpus} CPU{'s' * (self.cpus > 1)} ({self.processor}) of {self.node}"


__all__ = ["MeasuredOn"]
