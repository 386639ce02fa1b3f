"""Which bundle a ModelDeployment is to serve: the newest that is eligible, by the criteria as they stand now."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from fovea_api.criteria import eligible, evaluate_criteria
from fovea_api.modeldeployment import DeployedVersion, ModelDeploymentSpec, ModelDeploymentStatus
from fovea_api.run import RunType

from fovea_operator.conditions import Assessment, condition_of, progressing
from fovea_operator.kinds.modeldeployment.retraining import may_serve, may_serve_result
from fovea_operator.kinds.modeldeployment.snapshot import DeploymentSnapshot
from fovea_operator.objects import TRAINING_JOB, TUNING_SWEEP, Kind
from fovea_operator.workloads.rayservice import uses_gpu


@dataclass(frozen=True, slots=True)
class _Bundle:
    uri: str
    run: str | None


def resolve(snapshot: DeploymentSnapshot) -> DeployedVersion | Assessment:
    """The version that the spec asks for now, or why there is none."""
    spec = snapshot.deployment.spec
    if spec.model.uri is not None:
        return _version(spec, _Bundle(spec.model.uri, None))
    found = _of_sweep(snapshot) if spec.model.tuning_sweep_ref is not None else _of_job(snapshot)
    return _version(spec, found) if isinstance(found, _Bundle) else found


def is_same(one: DeployedVersion | None, other: DeployedVersion | None) -> bool:
    """Whether two are the same version in the same runtime."""
    if one is None or other is None:
        return False
    return (one.name, one.bundle, one.runtime) == (other.name, other.bundle, other.runtime)


def _version(spec: ModelDeploymentSpec, bundle: _Bundle) -> DeployedVersion:
    """Its name says what makes it another in the runtime: the run, the arithmetic, the key that must have signed it,
    and whether it needs a GPU."""
    start = bundle.run or f"b-{hashlib.sha256(bundle.uri.encode()).hexdigest()[:12]}"
    precision, key = spec.model.precision, spec.model.verify.name if spec.model.verify is not None else None
    parts = [
        start,
        precision.lower() if precision != "Auto" else "",
        f"key-{hashlib.sha256(key.encode()).hexdigest()[:6]}" if key is not None else "",
        "gpu" if uses_gpu(spec) else "",
    ]
    name = "-".join(filter(None, parts))
    return DeployedVersion(
        name=name, bundle=bundle.uri, run=bundle.run, precision=precision, runtime=spec.runtime, verify=key
    )


def _of_sweep(snapshot: DeploymentSnapshot) -> _Bundle | Assessment:
    reference = snapshot.deployment.spec.model.tuning_sweep_ref
    assert reference is not None
    if snapshot.sweep is None:
        return _not_found(snapshot, TUNING_SWEEP, reference.name, "spec.model.tuningSweepRef.name")
    promoted = snapshot.sweep.spec.promote
    if promoted is None:
        words = f"TuningSweep {reference.name!r} makes no TrainingJob of its winner; give it spec.promote"
        return progressing("TuningSweepNotReady", words)
    if snapshot.job is None:
        words = f"TuningSweep {reference.name!r} has not made TrainingJob {promoted.name!r} of its winner yet"
        return progressing("TuningSweepNotReady", words)
    return _newest_eligible(snapshot)


def _of_job(snapshot: DeploymentSnapshot) -> _Bundle | Assessment:
    reference = snapshot.deployment.spec.model.training_job_ref
    assert reference is not None
    if snapshot.job is None:
        return _not_found(snapshot, TRAINING_JOB, reference.name, "spec.model.trainingJobRef.name")
    return _newest_eligible(snapshot)


def _not_found(snapshot: DeploymentSnapshot, kind: Kind, name: str, path: str) -> Assessment:
    if any(key.kind == kind for key in snapshot.unreadable):
        words = f"this version of Fovea cannot read {kind} {name!r}, whose own conditions say why"
        return progressing(f"{kind}Unreadable", words)
    near = difflib.get_close_matches(name, snapshot.names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; apply it, or correct {path}"
    return progressing(f"{kind}NotFound", f"there is no {kind} {name!r} in this namespace{hint}")


def _newest_eligible(snapshot: DeploymentSnapshot) -> _Bundle | Assessment:
    job = snapshot.job
    assert job is not None
    if (found := next(_eligible(snapshot), None)) is not None:
        return found
    why = condition_of(job.status, "Ready")
    words = f": {why.reason}: {why.message}" if why is not None and why.message else ""
    return progressing("NoEligibleBundle", f"TrainingJob {job.metadata.name!r} has no eligible bundle yet{words}")


def _eligible(snapshot: DeploymentSnapshot) -> Iterator[_Bundle]:
    """Bundles that keep the job's criteria, the newest first: its own result, which outlives its Run, among them."""
    job = snapshot.job
    assert job is not None
    result = job.status.result if job.status is not None else None
    known = {run.metadata.name for run in snapshot.trainings}
    status = snapshot.deployment.status or ModelDeploymentStatus()
    if result is not None and result.run not in known and result.eligible and may_serve_result(result.run, status):
        yield _Bundle(result.bundle, result.run)
    retraining, name = snapshot.deployment.spec.retraining, snapshot.deployment.metadata.name
    comparison = retraining.comparison if retraining is not None else None
    manual = retraining is not None and retraining.promotion == "Manual"
    for run in snapshot.trainings:
        if not may_serve(run, name, status, comparison, manual):
            continue
        made = run.status.result if run.status is not None else None
        if run.spec.type is not RunType.TRAINING or made is None or made.error is not None or not made.artifact:
            continue
        if eligible(evaluate_criteria(job.spec.success_criteria, made.metrics), made.metrics):
            yield _Bundle(made.artifact, run.metadata.name)
