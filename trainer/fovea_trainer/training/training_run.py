"""A training's run spec with where it is carried out: what every process that takes part in it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fovea_api.choice import Candidate
from fovea_api.run import RunSpec, read_recipe
from fovea_api.trainingjob import Recipe
from fovea_store import StorePath

from fovea_trainer.data.version import OpenVersion, open_version
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.evaluation.latency import InThisProcess, Stopwatch
from fovea_trainer.results import folder_of, owner_folder
from fovea_trainer.training.base_weights import fetch_base_weights
from fovea_trainer.training.distillation import fetch_teacher
from fovea_trainer.training.fitting import fitted
from fovea_trainer.training.image_cache import ImageCache
from fovea_trainer.training.loop import Plan
from fovea_trainer.training.preflight import check_version
from fovea_trainer.training.tracking import Tracker

SHARDS_SHARE, IMAGES_SHARE = 0.6, 0.2
"""Shares of the work folder's size for shards and for decoded images; the rest is for weights, bundle and curves."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a worker needs to know; sent to it as it is."""

    spec: RunSpec
    environment: RunEnvironment
    candidates: tuple[Candidate, ...] = ()
    """The architectures that its own was chosen from, if it was chosen."""

    @property
    def recipe(self) -> Recipe:
        return read_recipe(self.spec.type, self.spec.recipe, Recipe)

    @property
    def folder(self) -> StorePath:
        return folder_of(self.spec, self.environment.name)

    @property
    def bundles(self) -> StorePath:
        """Where the job's bundles lie, each under its digest."""
        return owner_folder(self.spec.store, self.spec.owner) / "bundles"

    @property
    def stopwatch(self) -> Stopwatch:
        """What measures latency: a node of its own, where the recipe wants one and the operator has seen to it."""
        wanted = self.recipe.evaluation.latency
        if self.environment.status is None or not wanted.elsewhere:
            return InThisProcess(wanted)
        from fovea_trainer.evaluation.latency_node import OnItsNode

        return OnItsNode(wanted)

    def open(self) -> OpenVersion:
        """The dataset version, from this machine's cache, with the problem as it is stated now.

        Raises InvalidInput where it has nothing that could be learned.
        """
        given = self.spec.inputs.dataset
        assert given is not None
        limit = self.environment.share(SHARDS_SHARE)
        version = open_version(given.artifact, self.environment.work_dir / "versions", limit=limit)
        check_version(version, fitted(self.recipe, version))
        if given.problem is None:
            return version
        return replace(version, manifest=version.manifest.model_copy(update={"problem": given.problem}))

    def plan(self, rank: int, *, tracked: bool = True, until: int | None = None) -> Plan:
        """How to carry out the work.

        Args:
            rank: Number of the worker, from 0.
            tracked: Whether the first worker keeps the curves for TensorBoard and trackers.
            until: Epochs after which training pauses. None: at its end.
        """
        events = self.environment.work_dir / "tensorboard" / f"attempt-{self.environment.attempt}"
        tracker = None
        if rank == 0 and tracked:
            name, job = self.environment.name, self.spec.owner.name
            tracker = Tracker(events, self.folder / "tensorboard" / events.name, name, job, self._flat())
        teacher = self.spec.inputs.teacher
        source = self.spec.inputs.base_weights or self.recipe.model.pretrained.uri
        return Plan(
            checkpoint_every=self.spec.execution.checkpoint_every_epochs,
            base_weights=None if source is None else fetch_base_weights(source, self.environment.work_dir / "base"),
            teacher=None if teacher is None else fetch_teacher(teacher, self.environment.work_dir / "teacher"),
            tracker=tracker,
            until=until,
            image_cache=ImageCache(self.environment.work_dir, self.environment.share(IMAGES_SHARE)),
        )

    def _flat(self) -> Mapping[str, object]:
        flat: dict[str, object] = {}

        def walk(value: object, path: str) -> None:
            if isinstance(value, Mapping):
                for name, item in value.items():
                    walk(item, f"{path}.{name}" if path else name)
            else:
                flat[path] = value

        walk(self.recipe.to_dict(), "")
        return flat
