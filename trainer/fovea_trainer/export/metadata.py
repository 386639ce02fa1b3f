"""What an ONNX file says of itself, so that it can be used without its bundle: classes, normalization, thresholds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import INPUT

OUTPUT_SHAPES = {
    "logits": "[N, classes], for SemanticSegmentation [N, classes, height, width]: before softmax",
    "boxes": "[N, anchors, 4]: left, top, right, bottom in pixels of the input",
    "scores": "[N, anchors, classes]: 0 to 1",
    "masks": "[N, anchors, rows, columns]: 0 to 1, the probability of the object on a grid over its box",
}
"""What each output holds."""


def write_metadata(
    path: Path,
    classes: Sequence[str],
    preprocess: Preprocess,
    postprocess: Postprocess,
    outputs: Mapping[str, str] = OUTPUT_SHAPES,
) -> None:
    """Writes the file's `metadata_props`: JSON texts under `fovea.task`, `.classes`, `.input`, `.outputs`,
    `.postprocessing` and `.opset`. The network itself is left as it is.

    Args:
        path: The ONNX file.
        classes: Names of the classes in the order of their index.
        preprocess: What turns an image into the network's input.
        postprocess: What turns the outputs into predictions.
        outputs: What each output holds.
    """
    model = onnx.load(str(path))
    about: dict[str, object] = {
        "task": str(postprocess.task),
        "classes": list(classes),
        "input": {
            "name": INPUT,
            "layout": "NCHW",
            "type": "float32",
            "colors": "RGB",
            "width": preprocess.width,
            "height": preprocess.height,
            "resize": str(preprocess.resize),
            "padValue": preprocess.pad_value,
            "scale": 1 / 255,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        },
        "outputs": {output.name: outputs[output.name] for output in model.graph.output},
        "postprocessing": postprocess.to_manifest().to_dict(),
    }
    about["opset"] = next(each.version for each in model.opset_import if not each.domain)
    del model.metadata_props[:]
    texts = {f"fovea.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, str(path))
