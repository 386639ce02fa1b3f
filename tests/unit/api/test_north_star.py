"""The north-star examples: this version accepts every field of them, also what it cannot do yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_api import dataset
from fovea_api.schema import KINDS

NORTH_STAR = Path(__file__).parents[2] / "controlplane" / "north-star"
MODELS = {kind.__name__.lower(): kind for kind in KINDS}


def example(kind: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((NORTH_STAR / f"{kind}.yaml").read_text("utf-8"))
    return {**manifest, "status": None}


@pytest.mark.parametrize("kind", ["dataset", "trainingjob", "tuningsweep", "modeldeployment"])
def test_is_accepted(kind: str) -> None:
    assert MODELS[kind].model_validate(example(kind)).metadata.name == "blood-cells"


def test_all_of_it_can_be_done() -> None:
    data = dataset.Dataset.model_validate(example("dataset"))
    assert dataset.unsupported(data.spec) == ()
