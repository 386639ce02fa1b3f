"""What a retraining goes by, out of the snapshot of a ModelDeployment."""

from __future__ import annotations

import re
from datetime import datetime

from fovea_api import names
from fovea_api.common import DIGEST
from fovea_api.modeldeployment import DeployedVersion, ModelDeploymentStatus
from fovea_api.profile import LABELLED
from fovea_api.run import BundleInput, Run

from fovea_operator.evidence.betting import Share
from fovea_operator.kinds.modeldeployment.bundles import resolve
from fovea_operator.kinds.modeldeployment.retraining import Champion, Data, Observed
from fovea_operator.kinds.modeldeployment.snapshot import DeploymentSnapshot
from fovea_operator.objects import MODEL_DEPLOYMENT


def observed_of(snapshot: DeploymentSnapshot) -> Observed:
    """What is observed."""
    versions = snapshot.deployment.status or ModelDeploymentStatus()
    metadata, job = snapshot.deployment.metadata, snapshot.job
    reference = snapshot.deployment.spec.model.training_job_ref
    stable, failed, candidate = versions.stable, versions.rolled_back, versions.candidate
    offered = resolve(snapshot)
    status = job.status if job is not None else None
    ours = [
        entry
        for entry in (status.requested_runs if status is not None else ())
        if (entry.kind, entry.name) == (MODEL_DEPLOYMENT.name, metadata.name)
    ]
    return Observed(
        now=snapshot.now,
        job=job.metadata.name if job is not None else reference.name if reference is not None else "",
        champion=_champion(snapshot, stable),
        stable=stable.run if stable is not None else None,
        rolled_back=failed.run if failed is not None else None,
        offered=(offered.run or "") if isinstance(offered, DeployedVersion) else None,
        rolling_out=(candidate.name or "") if candidate is not None else "",
        criteria=job.spec.success_criteria if job is not None else (),
        trains_new_versions=job is not None and job.spec.run_policy.on_new_dataset_version == "NewRun",
        data=_data(snapshot),
        drift_since=_drift_since(versions),
        labelled=_labelled(snapshot, stable),
        runs={
            run.spec.request.cause: run
            for run in snapshot.trainings
            if run.spec.request is not None
            and (run.spec.request.kind, run.spec.request.name) == (MODEL_DEPLOYMENT.name, metadata.name)
        },
        answers={entry.cause: entry for entry in ours},
        retrain=metadata.annotations.get(names.ANNOTATION_RETRAIN, ""),
        approve=metadata.annotations.get(names.ANNOTATION_APPROVE, ""),
    )


def _drift_since(status: ModelDeploymentStatus) -> datetime | None:
    found = status.drift
    return found.since if found is not None and found.state == "Detected" else None


def _labelled(snapshot: DeploymentSnapshot, stable: DeployedVersion | None) -> Share | None:
    """Right answers among those with a label, since each gateway pod began to count. One that is replaced takes its
    counts along, which makes the evidence less and never another."""
    if stable is None:
        return None
    counts: dict[str, float] = {}
    for samples in snapshot.measured.samples.values():
        for series, value in samples[-1].values.items() if samples else ():
            if series.name == LABELLED and series.run == stable.name:
                counts[series.label] = counts.get(series.label, 0.0) + value
    right, wrong = counts.get("right", 0.0), counts.get("wrong", 0.0)
    return Share(right, right + wrong) if right + wrong else None


def _champion(snapshot: DeploymentSnapshot, stable: DeployedVersion | None) -> Champion | None:
    """The served model, if it is one of the job's and its digest is known."""
    if stable is None or stable.run is None:
        return None
    run = next((run for run in snapshot.trainings if run.metadata.name == stable.run), None)
    status = snapshot.job.status if snapshot.job is not None else None
    result = status.result if status is not None else None
    if run is not None and (digest := _digest(run)) is not None:
        dataset = run.spec.inputs.dataset
        version = dataset.version if dataset is not None else None
        return Champion(stable.run, BundleInput(digest=digest, artifact=stable.bundle), version)
    if status is not None and result is not None and result.run == stable.run:  # its Run was deleted with the history
        return Champion(stable.run, BundleInput(digest=result.digest, artifact=stable.bundle), None)
    return _champion_of_history(snapshot, stable.run, stable.bundle)


def _champion_of_history(snapshot: DeploymentSnapshot, run: str, bundle: str) -> Champion | None:
    """The served model, of whose Run nothing but the retrainings is left: each that was not better took a place in the
    job's history. The bundle's folder is named by its digest."""
    status = snapshot.deployment.status
    history = status.retraining.history if status is not None and status.retraining is not None else ()
    digest = bundle.rstrip("/").rpartition("/")[2]
    if not any(run in (event.run, event.served) for event in history) or not re.fullmatch(DIGEST, digest):
        return None
    version = next((event.dataset_version for event in history if event.run == run), None)
    return Champion(run, BundleInput(digest=digest, artifact=bundle), version)


def _digest(run: Run) -> str | None:
    result = run.status.result if run.status is not None else None
    return result.digest if result is not None else None


def _data(snapshot: DeploymentSnapshot) -> Data | None:
    """The newest version of the dataset that the job trains on; one that it pins is never another."""
    job, dataset = snapshot.job, snapshot.dataset
    status = dataset.status if dataset is not None else None
    if job is None or job.spec.dataset_ref.version is not None:
        return None
    if status is None or status.version is None or status.images is None:
        return None
    return Data(status.version, status.images, {**snapshot.dataset_sizes, status.version: status.images})
