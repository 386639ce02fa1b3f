"""`model.architecture: Auto`: a short comparison on the dataset chooses the architecture, before its training.

Each candidate is exported as it is before training, and measured as it would be served: latency, size and complexity
depend on the weights hardly or not at all. Those within the limits are trained in a tenth of their preset's epochs by
the very trainer, with the whole rise and fall of the learning rate, and the best on the validation split is chosen:
one rung of successive halving (Karnin et al., 2013). A file in the run's folder has all that is known, so an attempt
goes on where the one before ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from fovea_api.bundle import MANIFEST, BundleManifest
from fovea_api.choice import AUTO, MAX_CANDIDATES, Candidate, in_words, limits_of
from fovea_api.common import Int, Model, OpaqueObject
from fovea_api.compatibility import as_candidate, candidates, incompatibilities
from fovea_api.errors import FoveaError, Interrupted, InvalidInput, Recoverable, Retryable
from fovea_api.run import Progress, RunSpec, RunType, frozen_recipe, read_recipe
from fovea_api.trainingjob import Compression, Compute, DatasetRef, Recipe, TrainingJobSpec
from fovea_serving.bundle import parse_manifest
from fovea_store import NotFound, StorePath
from fovea_store.errors import outside_cause
from pydantic import ValidationError

from fovea_trainer.data.version import read_manifest
from fovea_trainer.models.weights import HubUnavailable
from fovea_trainer.training.context import Listener
from fovea_trainer.training.fitting import fitted, shortened
from fovea_trainer.training.loop import fit, has_ended
from fovea_trainer.training.progress import rounded
from fovea_trainer.training.selection import improves, monitored_metric
from fovea_trainer.training.stored_checkpoints import StoredCheckpoints, forget_checkpoint, newest_checkpoint
from fovea_trainer.training.trained import measured_untrained
from fovea_trainer.training.training_run import TrainingRun

FOLDER, FILE = "choice", "candidates.json"
SHARE = 0.1
"""Share of a candidate's epochs, of which there is one at least, that it is trained in to be compared."""
ATTEMPTS = 2
"""Times that work on a candidate is begun without an end or a further checkpoint: what kills its process, mostly for
lack of memory, does so again."""
REASON_LENGTH = 1024

log = logging.getLogger(__name__)


class NoCandidate(FoveaError):
    """No architecture that is compared can be trained here."""


class NoCandidateWithinLimits(NoCandidate):
    """Every candidate misses a limit; the message has the nearest one."""


class _Entry(Model):
    """What is known of a candidate so far."""

    known: Candidate
    """Measured values, and why it is left out. A reason is only set where it is."""
    recipe: OpaqueObject = {}
    """Frozen recipe of its whole training; empty: it does not suit."""
    compared: bool = False
    """Whether its short training is over."""
    started: Int = 0
    """How often work on it was begun without an end or a further checkpoint."""
    position: str = ""
    """Its newest checkpoint when work on it was begun the last time; empty: none."""

    def with_known(self, **update: object) -> _Entry:
        return self.model_copy(update={"known": self.known.model_copy(update=update)})

    def left_out(self, reason: str) -> _Entry:
        log.info("%s is left out: %s", self.known.architecture, reason)
        return self.with_known(reason=reason[:REASON_LENGTH])


class _Entries(Model):
    entries: tuple[_Entry, ...]


def choose(run: TrainingRun, report: Listener, stop: threading.Event) -> TrainingRun:
    """The run with the architecture that its recipe leaves open, with that one's preset; another run as it is.

    A run that starts from the current model has that one's architecture, and compares nothing.

    Raises:
        NoCandidateWithinLimits, NoCandidate: there is nothing to choose.
        Interrupted: it was asked to stop; the next attempt goes on.
    """
    recipe = run.recipe
    if recipe.model.architecture != AUTO:
        return run
    if recipe.model.pretrained.from_ is not None:
        return replace(run, spec=_with_recipe(run.spec, frozen_recipe(_of_current(run, recipe))))
    comparison = _Comparison(run, report, stop)
    chosen = comparison.carry_out()
    return replace(run, spec=_with_recipe(run.spec, chosen.recipe), candidates=comparison.told(chosen))


def _with_recipe(spec: RunSpec, frozen: OpaqueObject) -> RunSpec:
    return spec.model_copy(update={"recipe": dict(frozen)})


def _of_current(run: TrainingRun, recipe: Recipe) -> Recipe:
    """The recipe with the architecture of the model that training starts from, and its options."""
    base = run.spec.inputs.base_weights
    assert base is not None
    file = StorePath.parse(base.artifact) / MANIFEST
    bundle: BundleManifest = parse_manifest(file.read_bytes(), file.uri)
    model = bundle.lineage.recipe.get("model")
    options = model.get("options", {}) if isinstance(model, Mapping) else {}
    log.info("training starts from the current model, so its architecture is kept: %s", bundle.architecture)
    candidate = as_candidate(recipe, bundle.architecture)
    return candidate.model_copy(update={"model": candidate.model.model_copy(update={"options": options})})


def rank(candidate: Candidate, metric: str) -> tuple[float, float]:
    """What candidates are ordered by, the best one first: the metric after the short training; of equals, that which
    computes less."""
    value = candidate.metrics.get(metric, 0.0)
    return (-value if improves(metric, 1.0, 0.0) else value, candidate.metrics["complexity/gigaMacs"])


class _Comparison:
    """Carries out a comparison; what it knows is in the file at all times."""

    def __init__(self, run: TrainingRun, report: Listener, stop: threading.Event) -> None:
        assert run.spec.inputs.dataset is not None
        self.run, self._report, self._stop = run, report, stop
        self.folder = run.folder / FOLDER
        self.version = read_manifest(StorePath.parse(run.spec.inputs.dataset.artifact))
        self.metric = monitored_metric(run.recipe, self.version.task)
        self.limits = limits_of(run.spec.success_criteria)
        self.entries = self._read() or list(self._begin())

    # --- The file ---

    def _read(self) -> list[_Entry]:
        try:
            read = _Entries.model_validate_json((self.folder / FILE).read_text()).entries
        except NotFound:
            return []
        except ValidationError as error:
            log.warning("%s cannot be read, and the comparison begins anew: %s", self.folder / FILE, error)
            return []
        log.info("the comparison of architectures goes on with what was found so far")
        return list(read)

    def _begin(self) -> Iterator[_Entry]:
        recipe, named = self.run.recipe, self.run.recipe.model.candidates
        names = candidates(recipe.model, self.version.task)[:MAX_CANDIDATES]
        log.info("the architecture is chosen from %d candidates: %s", len(names), ", ".join(names))
        for name in names:
            entry, candidate = _Entry(known=Candidate(architecture=name)), as_candidate(recipe, name)
            problem = next(iter(_problems(candidate, self.run.spec)), None)
            if problem is not None and named:
                raise problem
            yield (
                entry.left_out(str(problem))
                if problem is not None
                else entry.model_copy(update={"recipe": frozen_recipe(candidate)})
            )

    def _put(self, index: int, entry: _Entry) -> _Entry:
        self.entries[index] = entry
        content = _Entries(entries=tuple(self.entries))
        (self.folder / FILE).write_text(content.model_dump_json(by_alias=True, exclude_none=True))
        return entry

    def _folder_of(self, index: int) -> StorePath:
        return self.folder / f"{index + 1:02}"

    # --- The stages ---

    def carry_out(self) -> _Entry:
        """The candidate that is chosen."""
        for index in self._open():
            if not self.entries[index].known.metrics:
                self._work(index, "measured", self._measure)
        within = self._open()
        if not within:
            raise self._nothing()
        if len(within) > 1 and not self.version.splits.get("validation"):
            raise InvalidInput(
                "there is no validation split, on which architectures are compared",
                "spec.datasetRef",
                f"give validation a share in the Dataset's splits.ratios, or name the architecture instead of {AUTO}",
            )
        for index in within if len(within) > 1 else ():
            if not self.entries[index].compared:
                self._work(index, "trained for a short time", self._train)
        left = [self.entries[index] for index in self._open()]
        if not left:
            raise self._nothing()
        chosen = min(left, key=lambda entry: rank(entry.known, self.metric))
        log.info(in_words(self.told(chosen)))
        return chosen

    def told(self, chosen: _Entry) -> tuple[Candidate, ...]:
        """All candidates as they are reported, each but the chosen one with the reason why it is not."""
        best, name = rank(chosen.known, self.metric)[0], chosen.known.architecture
        return tuple(
            entry.known
            if entry is chosen or entry.known.reason is not None
            else entry.known.model_copy(
                update={
                    "reason": f"{name} was as good, and computes less"
                    if rank(entry.known, self.metric)[0] == best
                    else f"{name} was better; this one had {entry.known.quality}"
                }
            )
            for entry in self.entries
        )

    def _open(self) -> list[int]:
        """The candidates that are not left out."""
        return [index for index, entry in enumerate(self.entries) if entry.known.reason is None]

    def _work(self, index: int, what: str, work: Callable[[int, TrainingRun], None]) -> None:
        """Works on a candidate. One that cannot be worked on is left out; faults of the surroundings are raised."""
        entry, name = self.entries[index], self.entries[index].known.architecture
        if self._stop.is_set():
            raise Interrupted("the comparison of architectures was stopped", None, "the next attempt goes on")
        position = newest_checkpoint(self._folder_of(index))
        started = 1 if position > entry.position else entry.started + 1
        if started > ATTEMPTS:
            words = f"its process died {entry.started} times without a word: mostly for lack of memory"
            self._put(index, entry.left_out(words))
            return
        entry = self._put(index, entry.model_copy(update={"started": started, "position": position}))
        words = f"{name} is {what}, {index + 1} of {len(self.entries)} candidates"
        log.info(words)
        self._report(Progress(stage="Choosing", percent=0, message=words))
        try:
            work(index, _run_of(self.run, read_recipe(RunType.TRAINING, entry.recipe, Recipe)))
        except Exception as error:
            reason = self._fault_of(error)
            if reason is None:  # no fault of the candidate's
                self._put(index, entry.model_copy(update={"started": started - 1}))
                raise
            self._put(index, entry.left_out(reason))
        forget_checkpoint(self._folder_of(index))

    def _fault_of(self, error: Exception) -> str | None:
        """What a candidate cannot be worked on for; None: the fault is another's.

        A candidate that nobody named is not waited for where its weights cannot be had.
        """
        if isinstance(error, HubUnavailable):
            return None if self.run.recipe.model.candidates else str(error)
        if outside_cause(error) is not None or isinstance(error, Retryable | Recoverable):
            return None
        if isinstance(error, FoveaError):
            return str(error)
        log.exception("a candidate failed")
        return f"{type(error).__name__}: {error}"

    def _measure(self, index: int, run: TrainingRun) -> None:
        entry = self.entries[index]
        metrics = {name: rounded(value) for name, value in measured_untrained(run).items()}
        words = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
        log.info("%s before training: %s", entry.known.architecture, words)
        entry = entry.with_known(metrics=metrics).model_copy(update={"started": 0})
        missed = entry.known.beyond(self.limits)
        self._put(index, entry.left_out(missed) if missed else entry)

    def _train(self, index: int, run: TrainingRun) -> None:
        entry = self.entries[index]
        context = StoredCheckpoints(self._folder_of(index), run.environment.work_dir, self._stop)
        run, state = _short(run), context.resume()
        version = run.open()
        recipe = fitted(run.recipe, version)
        if state is None or not has_ended(recipe, state):
            state = fit(recipe, version, context, run.plan(0, tracked=False))
        if state.best_value is None:
            self._put(index, entry.left_out(f"{self.metric} is no number after {state.epoch} epochs"))
            return
        metrics = {**entry.known.metrics, self.metric: rounded(state.best_value)}
        entry = entry.with_known(metrics=metrics, epochs=state.epoch)
        self._put(index, entry.model_copy(update={"compared": True, "started": 0}))
        log.info("%s has %s", entry.known.architecture, entry.known.quality)

    def _nothing(self) -> NoCandidate:
        """Why there is nothing to choose; where it is for the limits, with the candidate that misses them by least."""
        place = "spec.model.architecture"
        measured = [entry.known for entry in self.entries if entry.known.metrics and entry.known.beyond(self.limits)]
        if not measured:
            reasons = "; ".join(f"{entry.known.architecture}: {entry.known.reason}" for entry in self.entries)
            return NoCandidate(f"no candidate can be trained: {reasons}", place, "name another architecture")
        nearest = min(measured, key=lambda candidate: candidate.excess(self.limits))
        return NoCandidateWithinLimits(
            f"none of {len(self.entries)} candidates meets the success criteria; the nearest is "
            f"{nearest.architecture}: {nearest.beyond(self.limits)}",
            "spec.successCriteria",
            "relax a criterion, lower input.size, or name further architectures in model.candidates",
        )


def _problems(recipe: Recipe, spec: RunSpec) -> Sequence[InvalidInput]:
    """What a candidate cannot be trained for."""
    given = {name: getattr(recipe, name) for name in Recipe.model_fields}
    whole = TrainingJobSpec(
        dataset_ref=DatasetRef(name="any"), compute=Compute(workers=spec.execution.workers), **given
    )
    return incompatibilities(whole)


def _run_of(run: TrainingRun, recipe: Recipe) -> TrainingRun:
    """The run as the training of a candidate."""
    return replace(run, spec=_with_recipe(run.spec, frozen_recipe(recipe)))


def _short(run: TrainingRun) -> TrainingRun:
    """The short training of a candidate: by the labels alone, without what comes after the training."""
    recipe, version = run.recipe, run.open()
    training = fitted(recipe, version).training
    training = shortened(training, max(1, round(SHARE * training.epochs)))
    update = {"training": training, "compression": Compression()}
    spec = run.spec.model_copy(update={"inputs": run.spec.inputs.model_copy(update={"teacher": None})})
    return _run_of(replace(run, spec=spec), recipe.model_copy(update=update))


__all__ = ["NoCandidate", "NoCandidateWithinLimits", "choose", "rank"]
