"""Writes `fovea_api/architectures.json` and `fovea_api/figures.json` from the registry, and `fovea_api/backbones.json`
from timm's.

Run it as `python -m fovea_trainer.models.catalogue`; `--check` writes nothing and fails if a file is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fovea_api
import timm
from fovea_api.architectures import TIMM_FAMILY
from fovea_api.backbones import FILE, Backbone
from fovea_api.figures import CLASSES, Figures
from fovea_api.figures import FILE as FIGURES
from fovea_api.trainingjob import ModelChoice
from pydantic import JsonValue

from fovea_trainer.models.complexity import complexity
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import architectures, build_network
from fovea_trainer.models.weights import is_packaged

FOLDER = Path(fovea_api.__file__).parent
PATH, BACKBONES = FOLDER / "architectures.json", FOLDER / FILE
SPDX = {
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "mit": "MIT",
}
"""timm's words for licences that have a name in SPDX's list."""


def render() -> str:
    """The catalogue of the architectures as JSON text."""
    items = [item.model_dump(mode="json", exclude_none=True) for item in architectures().values()]
    return json.dumps(items, indent=1) + "\n"


def render_backbones() -> str:
    """The models of timm as JSON text, one a line; what was entered before stays as it is."""
    known: dict[str, JsonValue] = json.loads(BACKBONES.read_text("utf-8")) if BACKBONES.exists() else {}
    names = sorted({*timm.list_models(), *timm.list_models(pretrained=True)})
    lines = [f"{json.dumps(name)}: {json.dumps(known.get(name, _describe(name)))}" for name in names]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _describe(name: str) -> JsonValue:
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    assert config is not None, name
    _, height, width = config.input_size
    licence = str(config.license or "unknown")
    described = Backbone(
        width=width,
        height=height,
        mean=config.mean,
        std=config.std,
        fixed=bool(config.fixed_input_size),
        published=bool(config.has_weights),
        packaged=is_packaged(name),
        licence=SPDX.get(licence, licence),
    )
    return described.model_dump(mode="json", exclude_defaults=True)


def render_figures() -> str:
    """Sizes and computation of the architectures as JSON text, one a line; what was entered before stays as it is."""
    file = FOLDER / FIGURES
    known: dict[str, JsonValue] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    lines = [
        f"{json.dumps(name)}: {json.dumps(known.get(name) or calculated(name).to_dict())}"
        for name in architectures()
        if name != TIMM_FAMILY
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def calculated(name: str) -> Figures:
    """The figures of an architecture."""
    choice = ModelChoice.model_validate({"architecture": name, "pretrained": {"weights": "None"}})
    network, architecture = build_network(choice, CLASSES, LossSettings()), architectures()[name]
    found = complexity(network, architecture.width, architecture.height)
    return Figures(mega_parameters=round(found.parameters / 1e6, 3), giga_macs=round(found.macs / 1e9, 3))


def main() -> int:
    stale = []
    # The architectures are described with the models of timm that are entered: these come first, and figures last.
    for path, make in ((BACKBONES, render_backbones), (PATH, render), (FOLDER / FIGURES, render_figures)):
        expected = make()
        if path.exists() and path.read_text("utf-8") == expected:
            continue
        if "--check" in sys.argv[1:]:
            stale.append(path)
        else:
            path.write_text(expected, "utf-8")
    for path in stale:
        print(f"{path} is out of date; run `make generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
