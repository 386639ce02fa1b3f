"""Proof that a file that was made from the model that is served answers as that one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fovea_serving.bundle import Bundle
from fovea_serving.pipeline.golden import STATED_TOLERANCE, golden_image, golden_numbers
from fovea_serving.predictor import Predictor

from fovea_trainer.export.parity import ParityError


def check_golden(bundle: Bundle, file: Path) -> str:
    """Holds a file against what the bundle states of its model's answer to the golden image, as gateways do.

    Returns:
        What was compared, in words.

    Raises:
        ParityError: a score differs by more than `STATED_TOLERANCE`.
    """
    stated = bundle.golden()
    if stated is None:
        return "the bundle states no answer to hold it against"
    served = Predictor.from_bundle(bundle)
    (answer,) = Predictor(file, served.preprocess, served.postprocess).predict([golden_image()], candidates=True)
    difference = float(np.abs(golden_numbers(answer) - stated).max())
    if not difference <= STATED_TOLERANCE:
        raise ParityError(
            f"scores of the golden image differ by {difference:.3g} from those that the bundle states; "
            f"{STATED_TOLERANCE:g} is allowed",
            str(file),
            "serve ONNX, and report the architecture",
        )
    return f"scores of the golden image are within {difference:.2g} of those that the bundle states"
