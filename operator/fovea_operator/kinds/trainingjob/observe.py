"""Observes a TrainingJob."""

from __future__ import annotations

from datetime import datetime

from fovea_api.common import Reference
from fovea_api.dataset import Dataset
from fovea_api.trainingjob import TrainingJob, references

from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import DATASET, TRAINING_JOB, Key
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, known_runs, observe_runs, requests_of, secret_of


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
    dataset_key = Key(DATASET, key.namespace, job.spec.dataset_ref.name)
    jobs = {reference.name for reference in references(job.spec) if reference.kind == TRAINING_JOB.name}
    others = {name: observer.readable(TrainingJob, Key(TRAINING_JOB, key.namespace, name)) for name in jobs}
    dataset = observer.readable(Dataset, dataset_key)
    not_read = [Key(TRAINING_JOB, key.namespace, name) for name, other in others.items() if other is None]
    not_read += [dataset_key] if dataset is None else []
    return TrainingSnapshot(
        job=job,
        runs=own.runs,
        cleanups=own.cleanups,
        leftover=own.leftover,
        store=store,
        missing=missing,
        now=now,
        dataset=dataset,
        others={name: other for name, other in others.items() if other is not None},
        unreadable=frozenset(other for other in not_read if observer.cache.get(other) is not None),
        datasets=tuple(sorted(other.name for other in observer.cache.keys(DATASET, key.namespace))),
        requests=requests_of(observer, key),
        dataset_cleanup=next((view.name for view in known_runs(observer, dataset_key) if view.threatens_versions), ""),
    )
