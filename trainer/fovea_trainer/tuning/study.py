"""A study at work: which job is next, and what its outcome means. All state is in the journal."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Literal

import numpy as np
from fovea_api.common import Usage, format_duration, parse_duration
from fovea_api.errors import FoveaError, InvalidInput
from fovea_api.run import RunProgress, RunSpec, frozen_recipe
from fovea_api.search_space import Values, refusal, trial_recipe
from fovea_api.sweep import MAX_FRONT, SweepProgress, SweepSummary, Trial, TrialCounts
from fovea_api.trainingjob import Evaluation, Export, Recipe
from fovea_api.tuningsweep import Budget, SweepRecipe

from fovea_trainer.environment import RunEnvironment
from fovea_trainer.training.stored_checkpoints import copy_checkpoint, forget_checkpoint, newest_checkpoint
from fovea_trainer.tuning.errors import BudgetTooSmall, NoTrialWithinLimits, SweepFailed, TooManyTrialsFailed
from fovea_trainer.tuning.journal import Clock, Entry, Journal, Phase, counted
from fovea_trainer.tuning.ranking import Losses, excess_of, knee, losses_of, order, pareto_front
from fovea_trainer.tuning.scheduling import Continue, Scheduler, scheduler_of
from fovea_trainer.tuning.search import Known, by_path, grid_size, metrics_at, propose
from fovea_trainer.tuning.trial import Job, Outcome, trial_spec

ATTEMPTS = 3
"""Times that work on a trial is begun without an end or a further checkpoint: what kills its process does so again."""
DRAWS = 100
"""Proposals for one trial that cannot be trained, after which the space counts as impossible."""
LEAST_SECONDS = 5.0
"""A budget that allows less than this to each trial is spent: nothing is trained in it."""
CLOCK_SECONDS = 30.0
"""Between two writes of the clock: what the death of the process takes from what was counted."""

Ended = Literal["AllTrials", "BudgetSpent", "SpaceExhausted", "TooManyFailed"]

UNFINISHED: Mapping[Ended, str] = {
    "BudgetSpent": "the budget was spent",
    "TooManyFailed": "too many other trials failed",
}
"""Ends after which the sweep may go on, with what the trials that have not ended are stopped by."""

log = logging.getLogger(__name__)


class Study:
    """Decides what is to be done; a caller carries it out, one job or several at a time.

    Args:
        spec: The sweep's run spec.
        recipe: Its recipe.
        environment: Where it works.
        journal: What is known.
        earlier: Trials of an earlier sweep.
        reserved: CPU cores and GPUs of a trial.
    """

    def __init__(
        self,
        spec: RunSpec,
        recipe: SweepRecipe,
        environment: RunEnvironment,
        journal: Journal,
        earlier: Sequence[Known] = (),
        reserved: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        self.spec, self.recipe, self.environment, self.journal = spec, recipe, environment, journal
        self.entries = journal.take_over()
        self.ended: Ended | None = None
        self._template: Recipe = recipe.template_recipe()
        self._scheduler: Scheduler = scheduler_of(recipe)
        self._earlier, self._reserved = earlier, reserved
        self._clock, self._ticked, self._kept = journal.clock(), time.monotonic(), time.monotonic()
        self._reported = self._clock
        self._active: set[int] = set()
        self._most = self._trials_in_all()

    # --- Jobs ---

    def next(self) -> Job | None:
        """The next job; None: there is none until one that runs has ended, or, where none runs, no further one at all.

        Raises TooManyTrialsFailed.
        """
        self.tick()
        failed = [entry for entry in self.entries if entry.phase is Phase.FAILED]
        if len(failed) > self.recipe.trials.max_failed:
            self.ended = "TooManyFailed"
            raise TooManyTrialsFailed(
                f"{len(failed)} of {len(self.entries)} trials failed, most of them so: {_most_common(failed)}",
                "spec.trials.maxFailed",
                "correct what the trials report, or raise it",
            )
        if self._budget_spent():
            self.ended = "BudgetSpent"
            return None
        interrupted = (e for e in self.entries if e.phase is Phase.RUNNING and e.number not in self._active)
        for entry in interrupted:
            if entry.started >= ATTEMPTS and newest_checkpoint(self.journal.of(entry)) <= entry.position:
                words = f"its process died {entry.started} times without a word: mostly for lack of memory"
                self._put(entry.model_copy(update={"phase": Phase.FAILED, "reason": words}))
                return self.next()
            return self._start(entry)
        return self._decided()

    def waiting(self, most: int) -> int:
        """How many jobs `next` would give now, one after the other; `most` are enough. It begins none."""
        if self.ended is not None or self._budget_spent():
            return 0
        entries = list(self.entries)
        count = sum(entry.phase is Phase.RUNNING and entry.number not in self._active for entry in entries)
        while count < most:
            decision = self._scheduler.decide(entries, len(entries) >= self._most)
            for entry, _ in decision.stop:
                entries[entry.number - 1] = entry.model_copy(update={"phase": Phase.STOPPED_EARLY})
            if (order := decision.go_on) is None:
                count += 0 if decision.wait else self._most - len(entries)
                break
            entries[order.entry.number - 1] = order.entry.model_copy(
                update={"until": order.until, "phase": Phase.RUNNING}
            )
            count += 1
        return min(count, most)

    def _decided(self) -> Job | None:
        complete = len(self.entries) >= self._most
        decision = self._scheduler.decide(self.entries, complete)
        for entry, reason in decision.stop:
            self._stop(entry, reason)
        if decision.go_on is not None:
            return self._continue(decision.go_on)
        if decision.wait:
            return None
        if not complete:
            proposed = self._propose()
            if proposed is not None:
                return self._start(proposed)
            self._most = len(self.entries)
            return self._decided()
        if not self._active:
            self.ended = self.ended or ("SpaceExhausted" if self._is_exhausted() else "AllTrials")
        return None

    def _propose(self) -> Entry | None:
        """A new trial; None: every combination was tried."""
        number = len(self.entries) + 1
        error: FoveaError | None = None
        for draw in range(DRAWS):
            proposal = propose(self.recipe, self.entries, number, self._earlier, draw)
            if proposal is None:
                return None
            error = refusal(self._template, proposal.values)
            if error is None:
                return Entry(
                    number=number,
                    keyed=dict(proposal.keyed),
                    values=dict(proposal.values),
                    recipe=frozen_recipe(self._recipe(proposal.values)),
                    attributes=dict(proposal.attributes),
                    until=self._scheduler.first(number),
                )
            log.info("%s cannot be trained and is passed over: %s", _words(proposal.values), error)
        raise InvalidInput(
            f"of {DRAWS} proposals in a row none can be trained, the last one because: {error}",
            "spec.parameters",
            "narrow their values, or make some depend on others by when",
        )

    def _recipe(self, values: Values) -> Recipe:
        """A trial's recipe: what it is measured on is the validation split, and ONNX all that is exported."""
        recipe = trial_recipe(self._template, values)
        evaluation = Evaluation(**{**dict(recipe.evaluation), "splits": ("validation",)})
        return recipe.model_copy(update={"evaluation": evaluation, "export": Export()})

    def _continue(self, order: Continue) -> Job:
        reached = metrics_at(self.recipe, order.entry, order.entry.epochs)
        entry = order.entry.model_copy(update={"until": order.until, "phase": Phase.RUNNING, "reached": reached})
        if order.keyed is not None:
            source = next(each for each in self.entries if each.number == order.source)
            copy_checkpoint(self.journal.of(source), self.journal.of(entry))
            values = by_path(self.recipe.parameters, order.keyed)
            recipe = frozen_recipe(self._recipe(values))
            update = {"keyed": dict(order.keyed), "values": values, "recipe": recipe, "source": order.source}
            entry = entry.model_copy(update={**update, "curve": source.curve[: entry.epochs]})
            log.info("%s goes on from the weights of %s with %s", entry.name, source.name, _words(values))
        return self._start(entry)

    def _start(self, entry: Entry) -> Job:
        position = newest_checkpoint(self.journal.of(entry))
        started = 1 if position > entry.position else entry.started + 1
        entry = entry.model_copy(update={"started": started, "position": position})
        self._put(entry)
        self._active.add(entry.number)
        upto = f" up to epoch {entry.until}" if entry.until else ""
        log.info("%s trains%s: %s", entry.name, upto, _words(entry.values))
        recipe = Recipe.model_validate(dict(entry.recipe))
        return Job(
            name=entry.name,
            number=entry.number,
            spec=trial_spec(self.spec, recipe, entry.recipe),
            environment=self.environment,
            folder=str(self.journal.of(entry)),
            until=entry.until,
            deadline=None if (left := self._seconds_left()) is None else time.time() + left,
            measured=bool(entry.artefact),
        )

    # --- Outcomes ---

    def done(self, job: Job, outcome: Outcome) -> None:
        """Keeps what came of a job."""
        self.tick()
        entry = self.entries[job.number - 1]
        cpus, gpus = self._reserved
        hours = outcome.seconds / 3600
        usage = Usage(cpu_hours=entry.usage.cpu_hours + hours * cpus, gpu_hours=entry.usage.gpu_hours + hours * gpus)
        update: dict[str, object] = {"seconds": entry.seconds + outcome.seconds, "usage": usage, "started": 0}
        if outcome.error:
            update |= {"phase": Phase.FAILED, "reason": outcome.error}
            log.warning("%s failed: %s", entry.name, outcome.error)
        else:
            # One that was cut short by the budget is taken up again up to its milestone, if there is time after all.
            phase = Phase.SUCCEEDED if outcome.ended else Phase.RUNNING if outcome.cut else Phase.PAUSED
            artefact = {**entry.artefact, **outcome.artefact}
            update |= {"phase": phase, "curve": tuple(outcome.curve), "total": outcome.total, "artefact": artefact}
            update["measured"] = outcome.ended
        entry = entry.model_copy(update=update)
        self._put(entry)
        self._keep_clock()
        self._active.discard(job.number)
        if entry.phase.has_ended:
            forget_checkpoint(self.journal.of(entry))
        if not outcome.error:
            what = "is done" if outcome.ended else "is out of time" if outcome.cut else "pauses"
            log.info("%s %s after epoch %d: %s", entry.name, what, entry.epochs, _words(self.objectives_of(entry)))

    def lost(self, job: Job) -> None:
        """The process of a job died. It is begun again, as often as ATTEMPTS says."""
        log.warning("%s: its process died", job.name)
        self.tick()
        self._active.discard(job.number)

    def abandoned(self, job: Job) -> None:
        """What the process of a job left is taken up again: its own fault it was not."""
        entry = self.entries[job.number - 1]
        self._put(entry.model_copy(update={"started": max(0, entry.started - 1)}))
        self.tick()
        self._keep_clock()
        self._active.discard(job.number)

    def finish(self) -> None:
        """Ends what is paused, where nothing goes on any more. A sweep that the budget or failures have ended may go on
        with more of them: its trials stay as they are."""
        if self.ended is None:
            raise RuntimeError("the sweep has not ended")
        if self.ended not in UNFINISHED:
            for entry in self.entries:
                if entry.phase is Phase.PAUSED:
                    self._stop(entry, self._why(entry))
        self._keep_clock()

    def reason(self, entry: Entry) -> str:
        """Why a trial ended, or why the sweep did before it."""
        return entry.reason if entry.phase.has_ended or self.ended is None else UNFINISHED.get(self.ended, "")

    def _why(self, entry: Entry) -> str:
        better = sum(other.epochs > entry.epochs for other in self.entries)
        return (
            f"others did better after {entry.epochs} epochs; {better} of {len(self.entries)} trials were trained longer"
        )

    def _stop(self, entry: Entry, reason: str) -> None:
        log.info("%s ends early, after epoch %d: %s", entry.name, entry.epochs, reason)
        entry = entry.model_copy(update={"phase": Phase.STOPPED_EARLY, "reason": reason, "started": 0})
        self._put(entry)
        forget_checkpoint(self.journal.of(entry))

    def _put(self, entry: Entry) -> None:
        self.journal.write(entry)
        if entry.number > len(self.entries):
            self.entries.append(entry)
        else:
            self.entries[entry.number - 1] = entry

    # --- Budget ---

    def tick(self) -> bool:
        """Counts the time since the last call, of the sweep and of the trials at work, and keeps it now and then: to be
        called while trials work, too. Gives whether it was kept, and so is worth a report."""
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        cpus, gpus = self._reserved
        hours, usage = len(self._active) * passed / 3600, self._clock.usage
        self._clock = Clock(
            seconds=self._clock.seconds + passed,
            usage=Usage(cpu_hours=usage.cpu_hours + hours * cpus, gpu_hours=usage.gpu_hours + hours * gpus),
        )
        if now - self._kept < CLOCK_SECONDS:
            return False
        self._keep_clock()
        return True

    def _keep_clock(self) -> None:
        self.journal.set_clock(self._clock)
        self._kept, self._reported = time.monotonic(), self._clock

    def _budget_spent(self) -> bool:
        left = self._seconds_left()
        return any(spent >= limit for spent, limit in self._limits()) or (left is not None and left < LEAST_SECONDS)

    def _limits(self) -> list[tuple[float, float]]:
        """What is spent and what may be, of each limit."""
        return limits(self.recipe.budget, self._clock)

    def _seconds_left(self) -> float | None:
        """How long a trial may work before the budget is spent, if as many work as may."""
        budget, clock = self.recipe.budget, self._clock
        cpus, gpus = (each * self.spec.execution.parallel_trials for each in self._reserved)
        left = []
        if budget.wall_clock is not None:
            left.append(parse_duration(budget.wall_clock).total_seconds() - clock.seconds)
        if budget.cpu_hours is not None and cpus:
            left.append((budget.cpu_hours - clock.usage.cpu_hours) * 3600 / cpus)
        if budget.gpu_hours is not None and gpus:
            left.append((budget.gpu_hours - clock.usage.gpu_hours) * 3600 / gpus)
        return max(0.0, min(left)) if left else None

    def _trials_in_all(self) -> int:
        most = self.recipe.trials.max
        return grid_size(self.recipe.parameters, most) if self.recipe.search.algorithm == "Grid" else most

    def _is_exhausted(self) -> bool:
        return self._most < self.recipe.trials.max

    # --- What was found ---

    def objectives_of(self, entry: Entry) -> dict[str, float]:
        """What is known of a trial's objectives: of the artefact, or after its last epoch."""
        names = [objective.metric for objective in self.recipe.objectives]
        known = {**(entry.curve[-1] if entry.curve else {}), **entry.artefact}
        return {name: known[name] for name in names if name in known}

    def _measured(self) -> list[Entry]:
        """Trials that were trained to their end and measured."""
        known = [entry for entry in self.entries if entry.phase is Phase.SUCCEEDED]
        return [entry for entry in known if losses_of(self.recipe.objectives, entry.artefact) is not None]

    def within_limits(self, entry: Entry) -> bool:
        """Whether a trial was measured and keeps all limits."""
        return entry in self._measured() and excess_of(self.recipe.objectives, entry.artefact) <= 0

    def front(self) -> list[Entry]:
        """The trials that no other beats in all objectives, the best by the first one first. Of those that keep all
        limits, if there are any."""
        measured = self._measured()
        kept = [entry for entry in measured if self.within_limits(entry)] or measured
        return [kept[index] for index in pareto_front(self._losses(kept))]

    def best(self) -> Entry | None:
        """Of the trials that keep all limits, the best by the first objective."""
        kept = [entry for entry in self.front() if self.within_limits(entry)]
        return kept[0] if kept else None

    def knee(self) -> Entry | None:
        """The compromise of the front; None with one objective, or where nothing keeps all limits."""
        kept = [entry for entry in self.front() if self.within_limits(entry)]
        return kept[knee(self._losses(kept))] if kept and len(self.recipe.objectives) > 1 else None

    def _losses(self, entries: Sequence[Entry]) -> Losses:
        rows = [losses_of(self.recipe.objectives, entry.artefact) for entry in entries]
        return np.array(rows, float).reshape(len(rows), len(self.recipe.objectives))

    def trial(self, entry: Entry) -> Trial:
        """A trial as a status has it."""
        return Trial(trial=entry.name, parameters=entry.values, metrics=self.objectives_of(entry), epochs=entry.epochs)

    def counts(self) -> TrialCounts:
        """Trials by what became of them."""
        return TrialCounts(
            running=counted(self.entries, Phase.RUNNING),
            paused=counted(self.entries, Phase.PAUSED),
            succeeded=counted(self.entries, Phase.SUCCEEDED),
            stopped_early=counted(self.entries, Phase.STOPPED_EARLY),
            failed=counted(self.entries, Phase.FAILED),
            total=self._most,
        )

    def progress(self) -> RunProgress:
        """How far the sweep is. Time is what the journal has, so that no restart takes back what was reported."""
        best, spent = self.best(), [spent / limit for spent, limit in limits(self.recipe.budget, self._reported)]
        counts = self.counts()
        done = max([counts.ended / max(1, self._most), *spent]) if self.ended is None else 1.0
        seconds = self._reported.seconds
        left = format_duration(timedelta(seconds=seconds / done * (1 - done))) if 0 < done < 1 else None
        return RunProgress(
            stage="Tuning" if self.ended is None else "Reporting",
            percent=min(99, int(100 * min(1.0, done))),
            eta=left,
            sweep=SweepProgress(
                trials=counts,
                best=None if best is None else self.trial(best),
                front_size=len(self.front()),
                budget_percent=min(100, int(100 * max(spent))) if spent else None,
                usage=self._reported.usage,
            ),
        )

    def summary(self) -> SweepSummary:
        """The sweep in figures, when it has ended."""
        assert self.ended is not None
        front, best, middle = self.front(), self.best(), self.knee()
        counts = self.counts()
        stopped = counts.stopped_early + counts.running + counts.paused
        return SweepSummary(
            ended=self.ended,
            trials=counts.model_copy(update={"stopped_early": stopped, "running": 0, "paused": 0}),
            best=None if best is None else self.trial(best),
            knee=None if middle is None else self.trial(middle),
            pareto=tuple(map(self.trial, front[:MAX_FRONT])) if len(self.recipe.objectives) > 1 else (),
            front_size=len(front),
            epochs=sum(entry.epochs for entry in self.entries),
            seconds=self._clock.seconds,
            usage=self._clock.usage,
        )

    def why_nothing(self) -> SweepFailed | None:
        """The error of a sweep that has ended with nothing to show; None: it has something."""
        if self._measured():
            return None if self.best() is not None else self._why_none_within()
        if self.ended == "BudgetSpent":
            longest = max((entry.epochs for entry in self.entries), default=0)
            return BudgetTooSmall(
                f"the budget was spent when no trial had ended; the longest one had been trained for {longest} epochs",
                "spec.budget",
                "raise it: the sweep goes on with the trials that it has",
            )
        failed = [entry for entry in self.entries if entry.phase is Phase.FAILED]
        if failed:
            return TooManyTrialsFailed(
                f"all {len(self.entries)} trials failed or were stopped, most of them so: {_most_common(failed)}",
                "spec.parameters",
                "correct what the trials report",
            )
        return self._why_none_within()

    def _why_none_within(self) -> NoTrialWithinLimits:
        ranked = order_of(self, self._measured() or [e for e in self.entries if e.artefact])
        nearest = f"; the nearest is {ranked[0].name}: {_words(self.objectives_of(ranked[0]))}" if ranked else ""
        limited = ", ".join(f"{o.metric} {o.limit:g}" for o in self.recipe.objectives if o.limit is not None)
        return NoTrialWithinLimits(
            f"no trial keeps the limits ({limited}){nearest}",
            "spec.objectives",
            "relax a limit, or widen the parameters",
        )


def order_of(study: Study, entries: Sequence[Entry]) -> list[Entry]:
    """Measured trials, the best first: limits, then the front."""
    known = [entry for entry in entries if losses_of(study.recipe.objectives, entry.artefact) is not None]
    if not known:
        return list(entries)
    excess = np.array([excess_of(study.recipe.objectives, entry.artefact) for entry in known])
    return [known[index] for index in order(study._losses(known), excess)]


def limits(budget: Budget, clock: Clock) -> list[tuple[float, float]]:
    """What is spent and what may be, of each limit of a budget."""
    result = []
    if budget.wall_clock is not None:
        result.append((clock.seconds, parse_duration(budget.wall_clock).total_seconds()))
    if budget.cpu_hours is not None:
        result.append((clock.usage.cpu_hours, budget.cpu_hours))
    if budget.gpu_hours is not None:
        result.append((clock.usage.gpu_hours, budget.gpu_hours))
    return result


def _most_common(failed: Sequence[Entry]) -> str:
    (reason, count), *_ = Counter(entry.reason for entry in failed).most_common(1)
    return f"{reason} ({count} of them)"


def _words(values: Mapping[str, object]) -> str:
    def short(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{path.rpartition('.')[2]} {short(value)}" for path, value in values.items())


Executor = Callable[[Study, Callable[[], None]], None]
"""Carries out a study's jobs until there is no further one; calls the function after each."""
