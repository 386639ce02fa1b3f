"""Writes what is made from the operator's registry and settings: the chart's rights, tables of docs/operator.md.

python operator/generate.py            writes the files
python operator/generate.py --check    writes nothing; exits with 1 and names the files that differ
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import yaml
from fovea_operator.gauges import OF_EVERY_KIND
from fovea_operator.kinds import builtin
from fovea_operator.registry import Registry, Rights
from fovea_operator.rights import edit_rights, operator_rights, view_rights
from fovea_operator.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RIGHTS = Path("charts/fovea/files/rights.yaml")
PAGE = Path("docs/operator.md")
HEADER = "# Generated from the operator's registry of kinds by `make generate`. Do not edit.\n"


def main() -> int:
    registry = builtin()
    files = {RIGHTS: rights_file(registry), PAGE: page((ROOT / PAGE).read_text(), registry)}
    changed = [path for path, text in files.items() if not _holds(ROOT / path, text)]
    if "--check" in sys.argv[1:]:
        for path in changed:
            print(f"{path} is out of date; run `make generate`", file=sys.stderr)
        return 1 if changed else 0
    for path in changed:
        (ROOT / path).write_text(files[path])
        print(f"wrote {path}")
    return 0


def rights_file(registry: Registry) -> str:
    """The rules that the chart's roles take in, by role."""
    roles = {
        "operator": operator_rights(registry),
        "view": view_rights(registry),
        "edit": edit_rights(registry),
    }
    rules = {role: [_rule(rule) for rule in rights] for role, rights in roles.items()}
    return HEADER + yaml.safe_dump(rules, sort_keys=False, default_flow_style=None, width=110)


def page(text: str, registry: Registry) -> str:
    """The operator's page with its tables as they should be."""
    tables = {"kinds": _kinds_table(registry), "settings": _settings_table(), "gauges": _gauges_table(registry)}
    for name, rows in tables.items():
        begin, end = f"<!-- {name}: made by operator/generate.py -->", "<!-- end -->"
        head, rest = text.split(begin)
        text = "\n".join([head + begin, *rows, end + rest.split(end, 1)[1]])
    return text


def _kinds_table(registry: Registry) -> Iterator[str]:
    yield "| kind | runs | children | metrics of its own |"
    yield "|---|---|---|---|"
    for entry in registry.entries:
        runs = [f"{type.value} ({workload.kind})" for type, workload in entry.run_types.items()]
        own = [metric.name for metric in entry.metrics]
        cells = (runs, map(str, entry.children), own)
        yield f"| {entry.kind} | {' | '.join(_list(cell) for cell in cells)} |"


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


def _settings_table() -> Iterator[str]:
    yield "| setting | default | meaning, unit, reason |"
    yield "|---|---|---|"
    for setting in fields(Settings):
        default = setting.default if setting.default != "" else "(empty)"
        yield f"| `{setting.name}` | `{default}` | {setting.metadata['help']} |"


def _gauges_table(registry: Registry) -> Iterator[str]:
    yield "| metric | labels | meaning |"
    yield "|---|---|---|"
    own = (gauge for gauges in registry.gauges.values() for gauge in gauges)
    for before, gauge in (*((("kind",), each) for each in OF_EVERY_KIND), *(((), each) for each in own)):
        labels = (*before, "namespace", "name", *gauge.labels)
        yield f"| `{gauge.name}` | {', '.join(labels)} | {gauge.help} |"


def _rule(rights: Rights) -> dict[str, list[str]]:
    return {"apiGroups": [rights.group], "resources": [*rights.resources], "verbs": [*rights.verbs]}


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
