"""The ONNX file of a detector or instance segmenter with non-maximum suppression in its graph: it gives the objects
themselves.

What is added to the graph is what `fovea_serving.pipeline` does with the outputs, in the operations of plain ONNX: of
two boxes of a class that overlap by more than `nms_iou` the better stays; then, of the boxes on one object, the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import cast

import numpy as np
import onnx
from fovea_api.errors import NotSupported
from fovea_serving.backends import BackendOptions, open_backend
from fovea_serving.pipeline import Detection, InstanceSegmentation, Postprocess, Preprocess
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.predictions import ONE_OBJECT_IOU, pasted
from numpy.typing import NDArray
from onnx import compose, numpy_helper, parser

from fovea_trainer.export.exporter import ExportError
from fovea_trainer.export.exporters.onnx import OPSET
from fovea_trainer.export.metadata import write_metadata
from fovea_trainer.export.parity import ParityError

OUTPUTS = {
    "num_detections": "int32 [N]: how many of the rows are objects",
    "boxes": "[N, rows, 4]: left, top, right, bottom in pixels of the input, the best object first, then zeros",
    "scores": "[N, rows]: 0 to 1, from the confidence threshold on",
    "labels": "int32 [N, rows]: index of the class",
}
"""Outputs of the file: those of a gateway's answer by the Open Inference Protocol. `rows` is fixed in the file."""
MASKS = {"masks": "[N, rows, side, side]: 0 to 1, the probability of the object on a grid over its box"}
"""What an instance segmenter's file gives besides; each is drawn in the image by who knows its size."""
AGREEMENT = 0.95
"""Mean F1 score that the objects have with the pipeline's on real images; one overlap that lies at its limit to the
last digit costs some of it."""
_GRAPH = """
<ir_version: 10, opset_import: ["" : $opset]>
suppression (float[N, A, 4] raw_boxes, float[N, A, C] raw_scores$given)
    => (int32[N] num_detections, float[N, M, 4] boxes, float[N, M] scores, int32[N, M] labels$made)
{
    not_negative = Max (raw_boxes, zero)
    inside = Min (not_negative, limits)
    low, high = Split <axis = 2, num_outputs = 2> (inside)
    sides = Sub (high, low)
    shorter = ReduceMin <keepdims = 1> (sides, last)
    has_area = Greater (shorter, zero)
    valid = Where (has_area, raw_scores, absent)
    by_class = Transpose <perm = [0, 2, 1]> (valid)
    selected = NonMaxSuppression (inside, by_class, rows, class_iou, below_threshold)
    selected_scores = GatherND (by_class, selected)
    by_class_shape = Shape (by_class)
    nothing = ConstantOfShape <value = float[1] {-1}> (by_class_shape)
    kept = ScatterND (nothing, selected, selected_scores)
    flat = Reshape (kept, all_of_image)
    best_scores, best = TopK <axis = 1, largest = 1, sorted = 1> (flat, rows)
    best_labels = Div (best, anchors)
    best_anchors = Mod (best, anchors)
    best_rows = Unsqueeze (best_anchors, last)
    best_boxes = GatherND <batch_dims = 1> (inside, best_rows)

    one_class = Unsqueeze (best_scores, second)
    objects = NonMaxSuppression (best_boxes, one_class, rows, object_iou, below_zero)
    object_scores = GatherND (one_class, objects)
    one_class_shape = Shape (one_class)
    no_object = ConstantOfShape <value = float[1] {-1}> (one_class_shape)
    reported = ScatterND (no_object, objects, object_scores)
    reported_scores = Squeeze (reported, second)
    sorted_scores, order = TopK <axis = 1, largest = 1, sorted = 1> (reported_scores, rows)
    order_rows = Unsqueeze (order, last)
    sorted_boxes = GatherND <batch_dims = 1> (best_boxes, order_rows)
    sorted_labels = GatherND <batch_dims = 1> (best_labels, order_rows)
    is_object = GreaterOrEqual (sorted_scores, zero)
    counted = Cast <to = 6> (is_object)
    num_detections = ReduceSum <keepdims = 0> (counted, second)
    scores = Where (is_object, sorted_scores, zero)
    labels_or_zero = Where (is_object, sorted_labels, no_label)
    labels = Cast <to = 6> (labels_or_zero)
    box_is_object = Unsqueeze (is_object, last)
    boxes = Where (box_is_object, sorted_boxes, zero)$masks
}
"""
_MASKED = {
    "given": ", float[N, A, S, S] raw_masks",
    "made": ", float[N, M, S, S] masks",
    "masks": """
    sorted_anchors = GatherND <batch_dims = 1> (best_anchors, order_rows)
    anchor_rows = Unsqueeze (sorted_anchors, last)
    sorted_masks = GatherND <batch_dims = 1> (raw_masks, anchor_rows)
    mask_is_object = Unsqueeze (box_is_object, last)
    masks = Where (mask_is_object, sorted_masks, zero)""",
}
"""What the graph of a network with masks has in the places of that name."""


def add_nms(model: Path, postprocess: Postprocess, target: Path) -> None:
    """Writes an ONNX file with the suppression behind its outputs; outputs are those of `outputs_of`.

    Boxes are clipped to the input, and to the image by the pipeline, which is the same without padding and crop; with
    them, the overlap of boxes that reach beyond the image may differ, and boxes in the padding alone are kept. Masks
    stay on the grids over their boxes, which networks with masks clip to the input by themselves.

    Args:
        model: An ONNX file with `boxes` and `scores`, and perhaps `masks`, in floating point or 8-bit integers.
        postprocess: The thresholds, which are fixed in the file.
        target: The file.

    Raises:
        NotSupported: the model gives no boxes.
        ExportError: the file's outputs have no fixed shape but for the batch.
    """
    if "boxes" not in postprocess.outputs:
        remedy = "it is for Detection and InstanceSegmentation"
        raise NotSupported(f"non-maximum suppression is not for {postprocess.task}", "spec.export.nms", remedy)
    network, masks = onnx.load(str(model)), "masks" in postprocess.outputs
    (anchors, classes), (width, height) = _shape_of(network, "scores", model), _input_size(network)
    rows = min(postprocess.max_detections, anchors * classes)
    fixed = {"M": rows, "S": _shape_of(network, "masks", model)[-1] if masks else 0}
    parts = _MASKED if masks else dict.fromkeys(_MASKED, "")
    tail = parser.parse_model(Template(_GRAPH).substitute(parts, opset=OPSET))
    threshold = np.float32(max(postprocess.score_threshold, postprocess.confidence_threshold))
    floats: dict[str, float | list[float]] = {
        "zero": 0.0,
        "limits": [width, height, width, height],
        "absent": -1.0,
        # the operation leaves out what is not above its threshold
        "below_threshold": [float(np.nextafter(threshold, np.float32(-1)))],
        "below_zero": [-0.5],
        "class_iou": [postprocess.nms_iou],
        "object_iou": [ONE_OBJECT_IOU],
    }
    integers: dict[str, int | list[int]] = {
        "rows": [rows],
        "anchors": anchors,
        "no_label": 0,
        "second": [1],
        "last": [2],
        "all_of_image": [0, -1],
    }
    constants = [
        *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in floats.items()),
        *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items()),
    ]
    tail.graph.initializer.extend(constants)
    for output in tail.graph.output:
        for dimension in output.type.tensor_type.shape.dim:
            if dimension.dim_param in fixed:
                dimension.dim_value = fixed[dimension.dim_param]
    tail.ir_version = network.ir_version
    network = compose.add_prefix(network, "network/", rename_inputs=False)
    ends = [(f"network/{name}", f"raw_{name}") for name in postprocess.outputs]
    merged = compose.merge_models(network, tail, ends)
    onnx.checker.check_model(merged, full_check=True)
    onnx.save(merged, str(target))


def write_nms(
    model: Path,
    classes: Sequence[str],
    preprocess: Preprocess,
    postprocess: Postprocess,
    target: Path,
) -> None:
    """`add_nms`, and the file says of itself what its outputs are. Raises what that one does."""
    add_nms(model, postprocess, target)
    write_metadata(target, classes, preprocess, postprocess, outputs_of(postprocess))


def outputs_of(postprocess: Postprocess) -> Mapping[str, str]:
    """What a file with suppression gives, and what each output holds."""
    return {**OUTPUTS, **MASKS} if "masks" in postprocess.outputs else OUTPUTS


def check_nms(model: Path, with_nms: Path, postprocess: Postprocess, batch: NDArray[np.float32]) -> float:
    """Holds the objects that the file gives against the pipeline's for the outputs of the model that it was made from.

    Args:
        model: The ONNX file without the suppression.
        with_nms: That with it.
        postprocess: The thresholds.
        batch: Normalized float32 `[N, 3, H, W]` of real images.

    Returns:
        The mean F1 score of the one's objects with the other's: 1 where all are the same.

    Raises:
        ParityError: it is below `AGREEMENT`.
    """
    height, width = batch.shape[2:]
    whole = Geometry((width, height), (width, height), (1.0, 1.0), (0.0, 0.0))
    threshold = postprocess.confidence_threshold
    plain, suppressing = (
        open_backend(file, BackendOptions(outputs))
        for file, outputs in ((model, postprocess.outputs), (with_nms, tuple(outputs_of(postprocess))))
    )
    scores = []
    for image in batch:
        (prediction,) = postprocess(plain.run(image[None]), [whole], confidence=threshold)
        expected = cast(Detection, prediction)
        given = objects_of(suppressing.run(image[None]), 0, whole)
        scores.append(expected.above(threshold).agreement(given, np.arange(int(given.labels.max(initial=0)) + 1)))
    agreement = float(np.mean(scores))
    if agreement < AGREEMENT:
        raise ParityError(
            f"the objects differ from those without suppression in the graph: F1 is {agreement:.3f} "
            f"on {len(batch)} images, at least {AGREEMENT:g} is allowed",
            str(with_nms),
            "leave spec.export.nms out, and report the architecture",
        )
    return agreement


def objects_of(outputs: Mapping[str, NDArray[np.float32]], index: int, geometry: Geometry) -> Detection:
    """The objects of one image of the batch, in the pixels of the original that the geometry leads back to."""
    count = int(outputs["num_detections"][index])
    boxes, scores, labels = (outputs[name][index][:count] for name in ("boxes", "scores", "labels"))
    original, labels = geometry.to_original(boxes), labels.astype(np.int64)
    if "masks" not in outputs:
        return Detection(original, labels, scores)
    whole = geometry.to_original(boxes, clipped=False)
    masks = pasted(outputs["masks"][index][:count], whole, *geometry.original)
    return InstanceSegmentation(original, labels, scores, masks, *geometry.original)


def _shape_of(network: onnx.ModelProto, name: str, model: Path) -> tuple[int, ...]:
    """Of an output, without the batch."""
    shapes = {output.name: output.type.tensor_type.shape.dim for output in network.graph.output}
    if name not in shapes or not all(dimension.dim_value for dimension in shapes[name][1:]):
        raise ExportError(f"the shape of {name} is not fixed", str(model), "export the model again")
    return tuple(int(dimension.dim_value) for dimension in shapes[name][1:])


def _input_size(network: onnx.ModelProto) -> tuple[int, int]:
    """Width and height."""
    *_, height, width = network.graph.input[0].type.tensor_type.shape.dim
    return int(width.dim_value), int(height.dim_value)
