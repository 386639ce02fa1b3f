"""Observes a TrainingJob."""

from __future__ import annotations

from datetime import datetime

from fovea_api.trainingjob import TrainingJob

from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import Key
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, recipe_objects, requests_of, runs_objects


async def observe_training(observer: Observer, key: Key, now: datetime) -> TrainingSnapshot | None:
    """The snapshot of a TrainingJob; None when it is deleted."""
    job = observer.read(TrainingJob, key)
    if job is None:
        return None
    needed = claims_of([(job.spec.model.pretrained.uri or "", "spec.model.pretrained.uri")])
    return TrainingSnapshot(
        job=job,
        requests=requests_of(observer, key),
        **await runs_objects(observer, key, job.metadata, job.status, needed, now),
        **recipe_objects(observer, key.namespace, job.spec),
    )
