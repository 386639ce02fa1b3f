"""What the API knows and this version cannot do is refused before any work, with its field."""

from __future__ import annotations

import pytest
from fovea_api.trainingjob import Recipe, unsupported


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"compression": {"pruning": {"sparsity": 0.3}}}, "spec.compression.pruning"),
        ({"compression": {"distillation": {"teacherRef": {"name": "large"}}}}, "spec.compression.distillation"),
        ({"compression": {"quantization": {"mode": "Dynamic"}}}, "spec.compression.quantization.mode"),
        ({"export": {"formats": ["ONNX", "TFLite"]}}, "spec.export.formats"),
        ({"export": {"deferred": ["TensorRT"]}}, "spec.export.deferred"),
    ],
)
def test_each_wish_is_refused_with_its_field(part: dict, field: str) -> None:
    (message,) = unsupported(Recipe.model_validate({"model": {"architecture": "resnet18"}, **part}))
    assert message.startswith(f"{field}: ")
    assert "not available in this version" in message


def test_what_works_is_not_refused() -> None:
    recipe = {
        "model": {"architecture": "resnet18"},
        "compression": {"quantization": {"mode": "Static"}},
        "export": {"formats": ["ONNX", "ExportedProgram", "StateDict"]},
    }
    assert unsupported(Recipe.model_validate(recipe)) == ()
