"""Observes a TrainingJob."""

from __future__ import annotations

from datetime import datetime

from fovea_api.common import Reference
from fovea_api.trainingjob import TrainingJob

from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import Key
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, observe_runs, recipe_objects, requests_of, secret_of


async def observe_training(observer: Observer, key: Key, now: datetime) -> TrainingSnapshot | None:
    """The snapshot of a TrainingJob; None when it is deleted."""
    job = observer.read(TrainingJob, key)
    if job is None:
        return None
    own = await observe_runs(observer, key)
    store = await observer.store(key.namespace)
    missing: tuple[Reference, ...] = ()
    if own.may_start(job.metadata, job.status):
        uris = [(store.uri, "the store"), (job.spec.model.pretrained.uri or "", "spec.model.pretrained.uri")]
        missing = await observer.missing(key, [*secret_of(store), *claims_of(uris)])
    return TrainingSnapshot(
        job=job,
        runs=own.runs,
        cleanups=own.cleanups,
        leftover=own.leftover,
        store=store,
        missing=missing,
        now=now,
        requests=requests_of(observer, key),
        **recipe_objects(observer, key.namespace, job.spec),
    )
