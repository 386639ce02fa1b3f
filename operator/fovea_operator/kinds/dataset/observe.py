"""Observes a Dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from fovea_api.common import DIGEST, Reference
from fovea_api.dataset import Dataset, DatasetSpec, references
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.run import BundleInput

from fovea_operator.cleanups.observe import readers, sharing
from fovea_operator.kinds.dataset.snapshot import DatasetSnapshot
from fovea_operator.objects import MODEL_DEPLOYMENT, RUN, Key, mapping, text
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, runs_objects


async def observe_dataset(observer: Observer, key: Key, now: datetime) -> DatasetSnapshot | None:
    """The snapshot of a Dataset; None when it is deleted."""
    dataset = observer.read(Dataset, key)
    if dataset is None:
        return None
    own = await runs_objects(observer, key, dataset.metadata, dataset.status, _needed(dataset.spec), now)
    pruning = next((view for view in own["cleanups"] if view.threatens_versions and not view.deletes_all), None)
    used: frozenset[str] | None = None
    if pruning is not None and not any(view.at_work for view in (*own["runs"], *own["cleanups"])):
        used = await _used(observer, key, pruning.run.spec.store)
    return DatasetSnapshot(
        dataset=dataset,
        prelabel=_served(observer, key, dataset.spec),
        used=used,
        shared=sharing(observer, key.namespace, pruning.run.spec.store) if pruning is not None else "",
        **own,
    )


def _needed(spec: DatasetSpec) -> Iterator[Reference]:
    """The Secrets and claims that a build mounts."""
    yield from (reference for reference in references(spec) if reference.kind == "Secret")
    yield from claims_of(
        (source.location, f"spec.sources[{index}].{'video.uri' if source.video is not None else 'uri'}")
        for index, source in enumerate(spec.sources)
        if source.location is not None
    )
    if spec.prelabel is not None and spec.prelabel.export is not None:
        yield from claims_of([(spec.prelabel.export.uri, "spec.prelabel.export.uri")])
    if spec.exclude is not None:
        yield from claims_of([(spec.exclude.uri, "spec.exclude.uri")])


def _served(observer: Observer, key: Key, spec: DatasetSpec) -> BundleInput | None:
    """The bundle that the deployment of `spec.prelabel` serves."""
    if spec.prelabel is None:
        return None
    deployment = Key(MODEL_DEPLOYMENT, key.namespace, spec.prelabel.model_deployment_ref.name)
    found = observer.readable(ModelDeployment, deployment)
    stable = found.status.stable if found is not None and found.status is not None else None
    return BundleInput.at(stable.bundle) if stable is not None else None


async def _used(observer: Observer, key: Key, store: str) -> frozenset[str]:
    """Versions of a Dataset that are read or pinned."""
    await observer.read_live(key.namespace)
    runs = (observer.cache.get(run) or {} for run in observer.cache.keys(RUN, key.namespace))
    read = (mapping(run, "spec", "inputs", "dataset") for run in runs)  # also of a Run that cannot be read as a whole
    inputs = (text(dataset, "version") for dataset in read if text(dataset, "name") == key.name)
    pinned = (
        reference.version
        for _, reference in observer.references(key.namespace)
        if (reference.kind, reference.name) == (key.kind.name, key.name)
    )
    named = (below.partition("/")[0] for _, below in readers(observer, key, store))
    return frozenset(version for version in (*inputs, *pinned, *named) if re.fullmatch(DIGEST, version))
