"""From a trained torch module to the files of a bundle, and the proof that they compute the same."""

from fovea_trainer.export.formats import save_exported_program, save_state_dict, save_weights
from fovea_trainer.export.onnx import ExportError, export_onnx
from fovea_trainer.export.parity import Parity, ParityError, check_parity
from fovea_trainer.export.quantization import QuantizationChoice, choose_quantized, quantize_static

__all__ = [
    "ExportError",
    "Parity",
    "ParityError",
    "QuantizationChoice",
    "check_parity",
    "choose_quantized",
    "export_onnx",
    "quantize_static",
    "save_exported_program",
    "save_state_dict",
    "save_weights",
]
