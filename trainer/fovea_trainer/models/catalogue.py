"""Writes `fovea_api/architectures.json` from the registry.

Run it as `python -m fovea_trainer.models.catalogue`; `--check` writes nothing and fails if the file is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fovea_api

from fovea_trainer.models.registry import architectures

PATH = Path(fovea_api.__file__).with_name("architectures.json")


def render() -> str:
    """The catalogue as JSON text."""
    items = [item.model_dump(mode="json", exclude_none=True) for item in architectures().values()]
    return json.dumps(items, indent=1) + "\n"


def main() -> int:
    expected = render()
    if "--check" not in sys.argv[1:]:
        PATH.write_text(expected, "utf-8")
    elif PATH.read_text("utf-8") != expected:
        print(f"{PATH} is out of date; run `make generate`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
