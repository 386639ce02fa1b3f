"""What a format of a bundle offers, and the registry of them: every file under `exporters/` registers one format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fovea_api.common import Task
from fovea_api.errors import FoveaError, NotSupported
from fovea_serving.pipeline import prediction_type
from fovea_serving.registry import Registry
from torch import Tensor, nn

from fovea_trainer.models.network import AnyNetwork, Inference


class ExportError(FoveaError):
    """The model cannot be written in a format that was asked for."""


class NamedOutputs(nn.Module):
    """Gives the outputs as a tuple in the order of their names, whatever form the module gives them in."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        super().__init__()
        self.module = module
        self.names = prediction_type(task).outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] = self.module(image)
        if isinstance(outputs, Tensor):
            return (outputs,)
        if isinstance(outputs, Mapping):
            return tuple(outputs[name] for name in self.names)
        return tuple(outputs)


@dataclass(frozen=True, slots=True)
class Exportable:
    """What is exported.

    Args:
        module: From normalized float32 [N, 3, H, W] to a tensor, a tuple or a dict of the outputs; left in evaluation
            mode on the CPU.
        weights: The module whose weights are kept; the same, or a part of it.
        task: Says how the outputs are called.
        size: (width, height) of the input in pixels; fixed in the file.
        dynamic_batch: Whether N may be any number; otherwise it is 1.
        onnx: The same module as an ONNX file, where it is written already: formats that are made from one read it.
        chooses_boxes: As of the network.
    """

    module: nn.Module
    weights: nn.Module
    task: Task
    size: tuple[int, int]
    dynamic_batch: bool = True
    onnx: Path | None = None
    chooses_boxes: bool = False

    @classmethod
    def of(cls, network: AnyNetwork, size: tuple[int, int], dynamic_batch: bool) -> Exportable:
        """A trained network with its decoding."""
        return cls(Inference(network), network, network.task, size, dynamic_batch, chooses_boxes=network.chooses_boxes)

    def traced(self) -> tuple[NamedOutputs, Tensor]:
        """The module as it is traced, and an example of its input; a batch of 1 would be taken for a constant."""
        width, height = self.size
        wrapped = NamedOutputs(self.module.cpu().eval(), self.task).eval()
        return wrapped, torch.zeros(2 if self.dynamic_batch else 1, 3, height, width)


class Exporter(ABC):
    """A format of `spec.export.formats` or `.deferred`.

    Attributes:
        format: Its name in the API.
        file: Name of the file in the bundle; of several, the one that is opened.
        runnable: Whether a backend of `fovea_serving` runs the file, so that it is held against the trained network.
        served: Whether it is made from the ONNX model that is served, in 8-bit integers where that is, so that it is
            held against what the bundle states of that one; else from the weights.
    """

    format: str
    file: str
    runnable: bool
    served: bool = False

    @abstractmethod
    def write(self, model: Exportable, path: Path) -> None:
        """Writes the file. Raises ExportError, MissingExtra."""

    def libraries(self) -> Mapping[str, str]:
        """Versions of what writes and runs the format, by name, where that is no part of the trainer.

        Raises:
            MissingExtra, NotSupported: it is not here.
        """
        return {}

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files that `write` makes for this path."""
        return (path,)


_EXPORTERS: Registry[Exporter] = Registry("fovea_trainer.export.exporters", "an exporter")


def register(exporter: type[Exporter]) -> type[Exporter]:
    """Decorator of an exporter, of which one is made. A format can be registered once."""
    _EXPORTERS.register(exporter.format)(exporter())
    return exporter


def exporter(name: str) -> Exporter:
    """The exporter of a format. Raises NotSupported."""
    exporters = _EXPORTERS.entries()
    if name not in exporters:
        raise NotSupported(
            f"the trainer does not write {name}", "spec.export.formats", f"use one of {', '.join(formats())}"
        )
    return exporters[name]


def formats() -> tuple[str, ...]:
    """Names of the formats that can be written, in order."""
    return tuple(sorted(_EXPORTERS.entries()))
