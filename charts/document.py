"""Writes the tables of charts/fovea/README.md: values from the comments of values.yaml, rights from roles.

Run it as `python charts/document.py`; `--check` writes nothing and fails if the README is out of date.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

CHART = Path(__file__).parent / "fovea"
README = CHART / "README.md"
OPERATOR_ROLES = {
    "fovea-operator": "served namespaces",
    "fovea-namespaces": "cluster",
    "fovea-operator-lease": "own namespace",
}


class Value(NamedTuple):
    """One value of the chart: dotted path, default as YAML flow text, and what its comment says."""

    path: str
    default: str
    description: str


def helm() -> str:
    """The helm program: `$HELM`, the one that devcluster built, or the one on PATH."""
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fovea"
    built = Path(os.environ.get("FOVEA_CACHE") or cache) / "bin" / "helm"
    program = os.environ.get("HELM") or (str(built) if built.exists() else shutil.which("helm"))
    if program is None:
        raise SystemExit("helm is not here: run `devcluster/devcluster build helm`, or set HELM to its path")
    return program


def values(text: str) -> Iterator[Value]:
    """Values of a values.yaml in its order; a value is a line whose comment stands right above it."""
    tree = yaml.safe_load(text)
    parents: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"^(\s*)# (.*)$", line):
            comment.append(match[2])
        elif match := re.match(r"^( *)([\w.-]+):", line):
            parents[len(match[1]) // 2 :] = [match[2]]
            if comment:
                node = tree
                for key in parents:
                    node = node[key]
                yield Value(".".join(parents), flow(node), " ".join(comment))
            comment = []
        else:
            comment = []


def flow(value: object) -> str:
    """A value on one line, as one would write it after `--set-json`."""
    return json.dumps(value) if value != "" else '""'


def values_table(text: str) -> list[str]:
    rows = [f"| `{value.path}` | `{value.default}` | {value.description} |" for value in values(text)]
    return ["| value | default | meaning |", "| --- | --- | --- |", *rows]


def rights_table(manifests: str) -> list[str]:
    """One row a rule of the roles that are bound to the operator's ServiceAccount."""
    rows = ["| where | API group | resources | names | verbs |", "| --- | --- | --- | --- | --- |"]
    for role in filter(None, yaml.safe_load_all(manifests)):
        where = OPERATOR_ROLES.get(role["metadata"]["name"])
        for rule in role.get("rules", ()) if where else ():
            groups = [group or "core" for group in rule["apiGroups"]]
            names = rule.get("resourceNames", ["any"])
            cells = (", ".join(cell) for cell in (groups, rule["resources"], names, rule["verbs"]))
            rows.append(f"| {where} | {' | '.join(cells)} |")
    return rows


def render(*arguments: str) -> str:
    """Output of `helm template` for the chart's defaults."""
    command = [helm(), "template", "fovea", str(CHART), "--namespace", "fovea-system", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def document() -> str:
    """The README with both tables as they should be."""
    text = README.read_text()
    tables = {
        "values": values_table((CHART / "values.yaml").read_text()),
        "rights": rights_table(render("--show-only", "templates/rbac.yaml")),
    }
    for name, rows in tables.items():
        begin, end = f"<!-- {name}: made by charts/document.py -->", "<!-- end -->"
        head, rest = text.split(begin)
        text = "\n".join([head + begin, *rows, end + rest.split(end, 1)[1]])
    return text


def main() -> int:
    expected = document()
    if "--check" not in sys.argv[1:]:
        README.write_text(expected)
    elif README.read_text() != expected:
        print(f"{README} is out of date; run `make generate`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
