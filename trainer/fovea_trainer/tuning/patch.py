"""The winner as a change of a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from fovea_api.errors import InvalidInput
from fovea_api.paths import with_at
from fovea_api.sweep import MANIFEST, SweepManifest, Trial
from fovea_store import StorePath
from pydantic import JsonValue


def recipe_patch(trial: Trial) -> dict[str, JsonValue]:
    """A trial's values as a part of a TrainingJob's manifest."""
    spec: dict[str, JsonValue] = {}
    for path, value in trial.parameters.items():
        spec = with_at(spec, path, value)
    return {"spec": spec}


@dataclass(frozen=True, slots=True)
class Found:
    """What a sweep has found."""

    manifest: SweepManifest

    def trial(self, name: str) -> Trial:
        """The trial of a name, or `best` or `knee`. Raises InvalidInput."""
        summary = self.manifest.summary
        special = {"best": summary.best, "knee": summary.knee or summary.best}
        if name in special:
            if (chosen := special[name]) is None:
                raise InvalidInput("no trial was trained to its end and keeps all limits", None, "see the report")
            return chosen
        for record in self.manifest.trials:
            if record.trial == name:
                return record
        names = ", ".join(record.trial for record in self.manifest.trials[:20])
        raise InvalidInput(f"there is no trial {name!r}", "--trial", f"use best, knee or one of {names}")


def find_sweep(sweep: str, store: str) -> Found:
    """A sweep by its folder, or the newest of its name in a store. Raises InvalidInput."""
    from fovea_trainer.tuning.manifest import newest_sweep, read_sweep

    folder = StorePath.parse(sweep)
    if not (folder / MANIFEST).is_file():
        folder = newest_sweep(sweep, store)
    return Found(read_sweep(folder))
