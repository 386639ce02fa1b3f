"""Observes a TuningSweep."""

from __future__ import annotations

from datetime import datetime

from fovea_api import names
from fovea_api.tuningsweep import TuningSweep, TuningSweepSpec

from fovea_operator.kinds.tuningsweep.snapshot import SweepSnapshot
from fovea_operator.objects import TRAINING_JOB, TUNING_SWEEP, Key, mapping, text
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, recipe_objects, runs_objects


async def observe_sweep(observer: Observer, key: Key, now: datetime) -> SweepSnapshot | None:
    """The snapshot of a TuningSweep; None when it is deleted."""
    sweep = observer.read(TuningSweep, key)
    if sweep is None:
        return None
    spec, warm = sweep.spec, sweep.spec.search.warm_start
    pretrained = spec.template.spec.model.pretrained.uri or ""
    uris = [(pretrained, "spec.template.spec.model.pretrained.uri")]
    uris += [(warm.uri or "", "spec.search.warmStart.uri")] if warm is not None else []
    earlier = None
    if warm is not None and warm.tuning_sweep_ref is not None:
        earlier = observer.readable(TuningSweep, Key(TUNING_SWEEP, key.namespace, warm.tuning_sweep_ref.name))
    return SweepSnapshot(
        sweep=sweep,
        earlier=earlier,
        promoted_from=_promoted_from(observer, key.namespace, spec),
        **await runs_objects(observer, key, sweep.metadata, sweep.status, claims_of(uris), now),
        **recipe_objects(observer, key.namespace, spec.template.spec),
    )


def _promoted_from(observer: Observer, namespace: str, spec: TuningSweepSpec) -> str | None:
    """The sweep that the TrainingJob of spec.promote was promoted from."""
    value = observer.cache.get(Key(TRAINING_JOB, namespace, spec.promote.name)) if spec.promote is not None else None
    return text(mapping(value, "metadata", "labels"), names.LABEL_PROMOTED_FROM) if value is not None else None
