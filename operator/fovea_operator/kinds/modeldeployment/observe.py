"""Observes a ModelDeployment."""

from __future__ import annotations

from datetime import datetime

from fovea_api.common import Reference
from fovea_api.dataset import Dataset
from fovea_api.modeldeployment import ModelDeployment, ModelDeploymentSpec, references
from fovea_api.trainingjob import TrainingJob
from fovea_api.tuningsweep import TuningSweep

from fovea_operator.kinds.modeldeployment.build import CHILDREN
from fovea_operator.kinds.modeldeployment.snapshot import DeploymentSnapshot
from fovea_operator.objects import (
    DATASET,
    POD,
    SECRET,
    TRAINING_JOB,
    TUNING_SWEEP,
    JsonObject,
    Key,
    controller_uid,
    key_of,
    text,
)
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, known_runs, secret_of
from fovea_operator.scraping import gateways_of


async def observe_deployment(observer: Observer, key: Key, now: datetime) -> DeploymentSnapshot | None:
    """The snapshot of a ModelDeployment; None when it is deleted."""
    deployment = observer.read(ModelDeployment, key)
    if deployment is None:
        observer.scraper.forget(key)
        return None
    spec, uid = deployment.spec, deployment.metadata.uid
    store = await observer.store(key.namespace)
    sweep, job_name = _followed(observer, key, spec)
    job = observer.readable(TrainingJob, Key(TRAINING_JOB, key.namespace, job_name)) if job_name else None
    runs = known_runs(observer, Key(TRAINING_JOB, key.namespace, job_name)) if job is not None else ()
    newest = sorted(runs, key=lambda view: view.created, reverse=True)
    kind = TUNING_SWEEP if spec.model.tuning_sweep_ref is not None else TRAINING_JOB
    referred = [
        Key(TRAINING_JOB if reference.kind == TRAINING_JOB.name else TUNING_SWEEP, key.namespace, reference.name)
        for reference in references(spec)
        if reference.kind != SECRET.name
    ]
    found = {TRAINING_JOB: job, TUNING_SWEEP: sweep}
    secrets = [reference for reference in references(spec) if reference.kind == SECRET.name]
    needed: list[Reference] = [*secret_of(store), *secrets, *claims_of(_uris(spec))]
    pods = tuple(observer.cache.owned(key, POD))
    data = Key(DATASET, key.namespace, job.spec.dataset_ref.name) if job is not None else None
    return DeploymentSnapshot(
        deployment=deployment,
        job=job,
        sweep=sweep,
        trainings=tuple(view.run for view in newest),
        dataset=observer.readable(Dataset, data) if data is not None else None,
        dataset_sizes=_sizes(observer, data) if data is not None else {},
        unreadable=frozenset(
            other for other in referred if found[other.kind] is None and observer.cache.get(other) is not None
        ),
        names=tuple(sorted(other.name for other in observer.cache.keys(kind, key.namespace))),
        children=_children(observer, key, uid),
        pods=pods,
        lacking=frozenset(observer.cache.lacking),
        missing=await observer.missing(key, needed),
        store=store,
        measured=observer.scraper.ask(key, gateways_of(pods), _window_start(deployment)),
        now=now,
    )


def _uris(spec: ModelDeploymentSpec) -> list[tuple[str, str]]:
    """Places in claims that the pods read or write, each with its field."""
    captures = spec.monitoring.captures
    return [
        (spec.model.uri or "", "spec.model.uri"),
        (captures.uri if captures is not None else "", "spec.monitoring.captures.uri"),
    ]


def _followed(observer: Observer, key: Key, spec: ModelDeploymentSpec) -> tuple[TuningSweep | None, str]:
    """The sweep, and the name of the TrainingJob whose models are served."""
    model = spec.model
    if model.tuning_sweep_ref is None:
        return None, model.training_job_ref.name if model.training_job_ref is not None else ""
    sweep = observer.readable(TuningSweep, Key(TUNING_SWEEP, key.namespace, model.tuning_sweep_ref.name))
    promoted = sweep.spec.promote if sweep is not None else None
    return sweep, promoted.name if promoted is not None else ""


def _window_start(deployment: ModelDeployment) -> datetime | None:
    """Start of the window in which drift is looked for."""
    if deployment.spec.monitoring.drift is None or deployment.status is None or deployment.status.drift is None:
        return None
    return deployment.status.drift.window_start


def _sizes(observer: Observer, dataset: Key) -> dict[str, int]:
    """Images of the versions of a Dataset, as its builds report them."""
    results = (view.status.result for view in known_runs(observer, dataset))
    made = [result.dataset for result in results if result is not None and result.dataset is not None]
    return {summary.version: summary.images for summary in made}


def _children(observer: Observer, key: Key, uid: str) -> dict[Key, JsonObject]:
    """What the object controls: KubeRay's objects carry the same labels, and another controller."""
    return {
        key_of(kind, value): value
        for kind in CHILDREN
        for value in observer.cache.owned(key, kind)
        if controller_uid(value) == uid and not text(value, "metadata", "deletionTimestamp")
    }
