"""Whether there is anything to tell apart."""

from __future__ import annotations

from collections.abc import Sequence

from fovea_api.errors import InvalidInput

from fovea_trainer.data.version import Split


def check_classes(train: Split, classes: Sequence[str]) -> None:
    """Raises InvalidInput: all images of the train split are of one class."""
    shown = sorted({classes[label] for label in train.column("label") if isinstance(label, int) and label >= 0})
    if len(shown) < 2:
        raise InvalidInput(
            f"all {len(train)} train images are of the class {', '.join(shown)}, so there is nothing to tell apart",
            "spec.datasetRef",
            "add images of another class",
        )
