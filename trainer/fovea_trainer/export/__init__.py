"""From a trained torch module to the files of a bundle, and the proof that they compute the same."""

from fovea_trainer.export.exporter import Exportable, Exporter, ExportError, exporter, formats
from fovea_trainer.export.golden import check_golden
from fovea_trainer.export.metadata import write_metadata
from fovea_trainer.export.nms import check_nms, write_nms
from fovea_trainer.export.parity import Parity, ParityError, check_parity
from fovea_trainer.export.quantization import (
    LayerSensitivity,
    QuantizableModel,
    calibrated,
    dynamic,
    quantize_static,
)
from fovea_trainer.export.weights import save_weights

__all__ = [
    "ExportError",
    "Exportable",
    "Exporter",
    "LayerSensitivity",
    "Parity",
    "ParityError",
    "QuantizableModel",
    "calibrated",
    "check_golden",
    "check_nms",
    "check_parity",
    "dynamic",
    "exporter",
    "formats",
    "quantize_static",
    "save_weights",
    "write_metadata",
    "write_nms",
]
