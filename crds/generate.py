"""Writes what is made from the API models: the CRDs, their copies in the Helm chart, the API reference, and the ledger
of defaults, to which it only adds.

python crds/generate.py            writes the files
python crds/generate.py --check    writes nothing; exits with 1 and names the files that differ
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fovea_api import dataset, trainingjob, tuningsweep
from fovea_api.architectures import declared_settings
from fovea_api.common import Model, Resource
from fovea_api.defaults import FILE as LEDGER_FILE
from fovea_api.defaults import declared, extended, ledger
from fovea_api.names import API_VERSION
from fovea_api.run import Run, RunType
from fovea_api.schema import KINDS, Schema, custom_resource_definition, openapi
from pydantic import JsonValue

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from crds/fovea_api by `make generate`. Do not edit.\n"
CRD_FOLDERS = (Path("crds"), Path("charts/fovea/files/crds"))
REFERENCE = Path("docs/reference")
LEDGER = Path("crds/fovea_api") / LEDGER_FILE
RECIPES: Mapping[RunType, type[Model]] = {
    RunType.DATASET_BUILD: dataset.Recipe,
    RunType.TRAINING: trainingjob.Recipe,
    RunType.TUNING_SWEEP: tuningsweep.SweepRecipe,
}
"""The recipes whose content is part of a run's identity."""

# Blocks that another page describes: (kind, path) -> what to read instead.
ELSEWHERE = {
    ("TuningSweep", "spec.template.spec"): "A TrainingJob's spec: see [TrainingJob](trainingjob.md#spec).",
    ("TuningSweep", "spec.compute"): "As in a TrainingJob: see [compute](trainingjob.md#speccompute).",
    ("ModelDeployment", "spec.retraining.recipe"): (
        "Any part of a TrainingJob's model, input, training, evaluation, compression and export: see "
        "[TrainingJob](trainingjob.md#spec). Blocks are merged; other values, lists too, are replaced."
    ),
}


class _SpelledOut(yaml.SafeDumper):
    """Writes what occurs twice twice, where YAML would refer back to it by an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Generates the CRDs and the API reference from the models.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    expected = dict(generated())
    stale = sorted(path for path in _existing() if path not in expected)
    changed = [path for path, text in expected.items() if not _holds(ROOT / path, text)]
    if check:
        for path in [*changed, *stale]:
            print(f"{path} is out of date; run `make generate`", file=sys.stderr)
        return 1 if changed or stale else 0
    for path in changed:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(expected[path], encoding="utf-8")
        print(f"wrote {path}")
    for path in stale:
        (ROOT / path).unlink()
        print(f"removed {path}")
    return 0


def generated() -> Iterator[tuple[Path, str]]:
    """All generated files, relative to the root, with their content."""
    for kind in KINDS:
        crd = custom_resource_definition(kind)
        text = HEADER + yaml.dump(crd, Dumper=_SpelledOut, sort_keys=False, allow_unicode=True, width=110)
        for folder in CRD_FOLDERS:
            yield folder / f"{crd['metadata']['name']}.yaml", text
        yield REFERENCE / f"{kind.__name__.lower()}.md", page(kind)
    yield REFERENCE / "README.md", index()
    yield LEDGER, ledger_text(extended(ledger(), todays_defaults()))


def todays_defaults() -> dict[str, JsonValue]:
    """What this version's recipes and architectures say of absent fields."""
    fields = {path: default for type, recipe in RECIPES.items() for path, default in declared(recipe, type.value)}
    return fields | declared_settings()


def ledger_text(values: Mapping[str, Sequence[JsonValue]]) -> str:
    """The ledger as JSON, a field a line: a change of a default is a line of a diff."""
    lines = (f" {json.dumps(path)}: {json.dumps(defaults)}" for path, defaults in values.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _existing() -> Iterator[Path]:
    for folder, pattern in (*((folder, "*.yaml") for folder in CRD_FOLDERS), (REFERENCE, "*.md")):
        yield from (path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


# --- The API reference ------------------------------------------------------------------------------------


def index() -> str:
    """The first page of the reference."""
    lines = [
        "<!-- Generated from crds/fovea_api by `make generate`. Do not edit. -->",
        "# API reference",
        "",
        f"All kinds belong to `{API_VERSION}` and live in a namespace. `kubectl explain` has the same text.",
        "",
        "| Kind | Short | What it declares |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        short = ", ".join(f"`{name}`" for name in kind.definition.short_names)
        lines.append(f"| [{kind.__name__}]({kind.__name__.lower()}.md) | {short} | {_cell(kind.__doc__ or '')} |")
    return "\n".join(lines) + "\n"


def page(kind: type[Resource]) -> str:
    """The reference of one kind: a table for each block of its spec and status."""
    schema = openapi(kind)
    lines = [
        "<!-- Generated from crds/fovea_api by `make generate`. Do not edit. -->",
        f"# {kind.__name__}",
        "",
        schema["description"],
        "",
        *(["Users read Runs and never write them; a policy of the chart refuses it.", ""] if kind is Run else []),
        f"`apiVersion: {API_VERSION}`, `kind: {kind.__name__}`",
    ]
    for part in ("spec", "status"):
        for path, block in _blocks(kind.__name__, schema["properties"][part], part):
            lines += ["", f"{'#' * min(path.count('.') + 2, 5)} {path}", "", block.get("description", "")]
            if (elsewhere := ELSEWHERE.get((kind.__name__, path))) is not None:
                lines += ["", elsewhere]
                continue
            lines += _table(block) + _rules(block)
    return "\n".join(lines) + "\n"


def _blocks(kind: str, block: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every object of a schema with its path, in reading order."""
    yield path, block
    if (kind, path) in ELSEWHERE:
        return
    for name, field in block.get("properties", {}).items():
        child = f"{path}.{name}"
        while "items" in field or "additionalProperties" in field:
            child += "[]" if "items" in field else ".*"
            field = field.get("items") or field["additionalProperties"]
        if "properties" in field:
            yield from _blocks(kind, field, child)


def _table(block: Schema) -> list[str]:
    required = block.get("required", [])
    rows = [
        f"| `{name}` | {_type(field)} | {_default(name, field, required)} | {_cell(field['description'])} |"
        for name, field in block.get("properties", {}).items()
    ]
    return ["", "| Field | Type | Default | Meaning |", "|---|---|---|---|", *rows] if rows else []


def _rules(block: Schema) -> list[str]:
    rules = block.get("x-kubernetes-validations", [])
    return ["", *(f"- {_cell(rule['message'])}" for rule in rules)] if rules else []


def _type(field: Mapping[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "items" in field:
        least, most = field.get("minItems", 0), field["maxItems"]
        number = f"{most}" if least == most else f"{least} to {most}"
        return f"list of {number}: {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of at most {field['maxProperties']}: {_type(field['additionalProperties'])}"
    if "type" not in field:
        return "any value"
    return " ".join(filter(None, [field["type"], _bounds(field)]))


def _bounds(field: Mapping[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    parts = []
    if low is not None:
        parts.append(f"{'>' if field.get('exclusiveMinimum') else '≥'} {low}")
    if high is not None:
        parts.append(f"{'<' if field.get('exclusiveMaximum') else '≤'} {high}")
    if "pattern" in field:
        parts.append(f"`{_cell(field['pattern'])}`")
    if "maxLength" in field and field.get("format") != "date-time":
        parts.append(f"at most {field['maxLength']} characters")
    return ", ".join(parts)


def _default(name: str, field: Mapping[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    default = field.get("default")
    if default is None or default in ({}, []):
        return ""
    flow = yaml.dump(default, Dumper=_SpelledOut, default_flow_style=True, width=1000)
    text = flow.removesuffix("\n").removesuffix("\n...")
    return f"`{text}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
