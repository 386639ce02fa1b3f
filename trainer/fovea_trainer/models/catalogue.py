"""Writes `fovea_api/architectures.json` from the registry: `python -m fovea_trainer.models.catalogue`."""

from __future__ import annotations

import json
from pathlib import Path

import fovea_api

from fovea_trainer.models.registry import registry

PATH = Path(fovea_api.__file__).with_name("architectures.json")


def render() -> str:
    """The catalogue as JSON text."""
    items = [item.model_dump(mode="json", exclude_none=True) for item in registry().architectures().values()]
    return json.dumps(items, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), "utf-8")
