"""Whole plans, recorded: what a planner wrote for a situation when somebody last looked at it and agreed.

The records lie in `recorded/<name>.yaml`. A plan that differs fails its test. Where the new plan is right,
`FOVEA_RECORD=1 pytest tests/unit/operator/test_recorded_*.py` writes it, and the review of the change shows what users
will see differently. Left out are the manifests of children, which the tests of builders hold, recipes, and what is
empty, so that a new optional field changes no record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from fovea_operator.conditions import Assessment
from fovea_operator.objects import CONFIG_MAP, RUN, Key, mapping
from fovea_operator.runs.lifecycle import Step
from fovea_operator.writes import Apply, Count, Create, Delete, Emit, Plan, SetStatus, Write

FOLDER = Path(__file__).with_name("recorded")


class Records:
    """The records of one file."""

    def __init__(self, name: str, situations: Mapping[str, Callable[[], Any]]) -> None:
        self._file = FOLDER / f"{name}.yaml"
        self._situations = situations

    def check(self, situation: str) -> None:
        """Fails where the situation leads to something else than what is recorded."""
        made = _filled(json.loads(json.dumps(self._situations[situation](), default=str, sort_keys=True)))
        if os.environ.get("FOVEA_RECORD"):
            self._record(situation, made)
        assert made == self._known().get(situation)

    def _known(self) -> dict[str, Any]:
        known: dict[str, Any] = yaml.load(self._file.read_text(), yaml.CSafeLoader) if self._file.exists() else {}
        return known

    def _record(self, situation: str, made: Any) -> None:
        known = self._known() | {situation: made}
        kept = {name: known[name] for name in self._situations if name in known}
        text = yaml.safe_dump(kept, sort_keys=False, width=150, allow_unicode=True, default_flow_style=None)
        self._file.parent.mkdir(exist_ok=True)
        self._file.write_text(text)


def _filled(value: Any) -> Any:
    """The value without fields that are empty; items of a list stay, whatever is left of them."""
    if isinstance(value, list):
        return [_filled(each) for each in value]
    if not isinstance(value, dict):
        return value
    parts = {name: _filled(part) for name, part in value.items()}
    return {name: part for name, part in parts.items() if part not in (None, "", [], {})}


def of_plan(plan: Plan) -> list[Any]:
    """A plan in plain values."""
    return [*map(_write, plan.writes), {"requeueAfter": plan.requeue_after}]


def _write(write: Write) -> dict[str, Any]:
    match write:
        case Create():
            return {
                "create": _key(write.key),
                "controller": _key(write.controller),
                **_content(write),
            }
        case Apply():
            return {
                "apply": _key(write.key),
                "controller": _key(write.controller),
                **_content(write),
            }
        case Delete():
            return {"delete": _key(write.key), "uid": write.uid}
        case SetStatus():
            return {"status of": _key(write.key), **_status(write.status)}
        case Emit():
            event = f"{write.type} {write.reason}: {write.note}"
            return {"event": event, "about": _key(write.regarding), "once": write.once}
        case Count():
            return {"count": [write.metric, *write.labels]}


def _content(write: Create | Apply) -> dict[str, Any]:
    key, manifest = write.key, cast(Mapping[str, Any], write.manifest)
    metadata = {name: part for name, part in manifest["metadata"].items() if name not in ("name", "namespace")}
    if key.kind == RUN:
        spec = {name: part for name, part in manifest["spec"].items() if name not in ("recipe", "execution")}
        cleanup = {"recipe": manifest["spec"]["recipe"]} if spec["type"] == "Cleanup" else {}
        return {"metadata": metadata, "spec": spec | cleanup}
    return {"data": mapping(manifest, "data")} if key.kind == CONFIG_MAP else {}


def _status(status: Mapping[str, Any]) -> dict[str, Any]:
    return {**status, "conditions": list(_conditions(status.get("conditions", ())))}


def _conditions(conditions: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line each; a message that is also that of the condition before is not repeated."""
    before = ""
    for each in conditions:
        message = each.get("message", "")
        when = f"generation {each.get('observedGeneration')}, {each['lastTransitionTime']}"
        shown = f"{each['type']}={each['status']} {each['reason']} ({when})"
        yield shown if message in ("", before) else f"{shown}: {message}"
        before = message or before


def of_step(step: Step) -> dict[str, Any]:
    """A step of a run in plain values."""
    parts = {
        "status": {name: part for name, part in step.status.to_dict().items() if name != "conditions"},
        "assessment": _assessment(step.assessment),
        "start": step.start,
        "delete": [_key(child.key) for child in step.delete],
        "notes": [f"{note.type} {note.reason} {note.attempt}: {note.text}" for note in step.notes],
        "ended": [attempt.number for attempt in step.ended],
        "requeueAfter": step.requeue_after,
    }
    return {name: part for name, part in parts.items() if part not in (None, [])}


def _assessment(assessment: Assessment) -> str:
    states = ["ready"] * assessment.ready + ["reconciling"] * (assessment.reconciling is not None)
    states += ["stalled"] * (assessment.stalled is not None)
    return f"{'+'.join(states)} {assessment.reason}: {assessment.message}"


def _key(key: Key | None) -> str | None:
    return str(key) if key is not None else None
