"""Which trial goes on, which pauses and which ends: pure functions of the journal.

A trial works until a milestone, a number of epochs, and pauses there with a checkpoint. So a decision needs no running
process, and what was decided is decided again after a restart.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
from fovea_api.common import Metrics
from fovea_api.presets import with_preset
from fovea_api.search_space import Values
from fovea_api.tuningsweep import SweepObjective, SweepRecipe

from fovea_trainer.tuning.journal import Entry, Phase
from fovea_trainer.tuning.ranking import excess_of, losses_of, order
from fovea_trainer.tuning.search import MIX, explore, metrics_at

COMPARABLE = 3
"""Other trials that MedianStopping compares with, at least."""
MARGIN = 0.1
"""Share by which a measured latency may miss its limit on the way: the next measurement may keep it."""


@dataclass(frozen=True, slots=True)
class Continue:
    """A trial goes on until it has been trained this many epochs. 0: until its end.

    Args:
        keyed: Other values that it goes on with, by key. None: its own.
        source: Trial whose weights it goes on from. 0: its own.
    """

    entry: Entry
    until: int
    keyed: Values | None = None
    source: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done next.

    Args:
        go_on: The trial that goes on; None: a new one may be made.
        stop: Trials that end here, each with the reason.
        wait: Nothing begins until a running trial pauses.
    """

    go_on: Continue | None = None
    stop: Sequence[tuple[Entry, str]] = field(default=())
    wait: bool = False


class Scheduler(Protocol):
    """Decides about paused trials."""

    def first(self, number: int) -> int:
        """Epochs after which a new trial pauses. 0: at its end."""

    def decide(self, entries: Sequence[Entry], complete: bool) -> Decision:
        """What is done with paused trials. `complete`: no new trial will be made."""


def scheduler_of(recipe: SweepRecipe) -> Scheduler:
    """The scheduler of a sweep."""
    if recipe.search.algorithm == "PopulationBased":
        return Population(recipe)
    match recipe.stopping.scheduler:
        case "ASHA":
            return SuccessiveHalving(recipe, brackets=1)
        case "Hyperband":
            return SuccessiveHalving(recipe, brackets=_brackets(recipe))
        case "MedianStopping":
            return MedianStopping(recipe)
        case "None":
            return NoStopping()


def ordered(recipe: SweepRecipe, entries: Sequence[Entry], epochs: int) -> list[Entry]:
    """Trials that have reached a number of epochs, the best after these first: limits, then objectives."""
    return _best_first(
        recipe, [(entry, metrics_at(recipe, entry, epochs)) for entry in entries if entry.epochs >= epochs]
    )


def _best_first(recipe: SweepRecipe, measured: Sequence[tuple[Entry, Metrics]]) -> list[Entry]:
    """Trials by what was measured of each; those of which an objective was not are left out."""
    known = []
    for entry, metrics in measured:
        losses = losses_of(recipe.objectives, metrics)
        if losses is not None:
            known.append((entry, losses, excess_of(recipe.objectives, metrics)))
    if not known:
        return []
    losses, excess = np.stack([each[1] for each in known]), np.array([each[2] for each in known])
    return [known[index][0] for index in order(losses, excess)]


def misses(recipe: SweepRecipe, entry: Entry) -> str:
    """Why a paused trial cannot keep a limit, whatever it still learns; empty: it may.

    Size and complexity stay as they are; a latency is measured again, so a small miss decides nothing. Quantization may
    mend all of it but the complexity, and pruning, which comes after training, that as well.
    """
    compression = str(entry.recipe.get("compression"))
    if "pruning" in compression:
        return ""
    quantized = "quantization" in compression
    for objective in recipe.objectives:
        value, kind = entry.artefact.get(objective.metric), objective.metric.partition("/")[0]
        if value is None or objective.limit is None or kind == "validation" or (quantized and kind != "complexity"):
            continue
        slack = MARGIN * abs(objective.limit) if kind == "latency" else 0.0
        if objective.excess(value) > slack:
            return f"{objective.metric} is {value:.4g}, its limit {objective.limit:.4g}"
    return ""


class NoStopping:
    """Every trial trains to its end."""

    def first(self, number: int) -> int:
        return 0

    def decide(self, entries: Sequence[Entry], complete: bool) -> Decision:
        paused = next((entry for entry in entries if entry.phase is Phase.PAUSED), None)
        return Decision() if paused is None else Decision(Continue(paused, 0))


# --- Successive halving ------------------------------------------------------------------------------------------

BRACKETS = 4
"""Brackets of Hyperband at most: more first rungs than these differ little."""


def _brackets(recipe: SweepRecipe) -> int:
    """As many as have different first rungs within a training as long as the template's."""
    epochs, stopping = with_preset(recipe.template_recipe()).training.epochs, recipe.stopping
    return max(1, min(BRACKETS, int(math.log(max(1, epochs / stopping.grace_epochs), stopping.reduction_factor)) + 1))


@dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """ASHA: Li et al., "A system for massively parallel hyperparameter tuning", 2020, algorithm 2. At each rung, of
    `reductionFactor` trials the best one goes on. A rung that no further trial can reach promotes one at least, so that
    every sweep trains some trial to the end.

    With several brackets Hyperband: Li et al., "Hyperband: A novel bandit-based approach to hyperparameter
    optimization", 2018. Bracket s starts at rung s; trials are spread so that each bracket gets about the same epochs.
    """

    recipe: SweepRecipe
    brackets: int = 1

    def first(self, number: int) -> int:
        return self._rung(self._bracket(number))

    def decide(self, entries: Sequence[Entry], complete: bool) -> Decision:
        stop = [(entry, reason) for entry in entries if entry.phase is Phase.PAUSED
                if (reason := misses(self.recipe, entry))]  # fmt: skip
        hopeless = {entry.number for entry, _ in stop}
        paused = [entry for entry in entries if entry.phase is Phase.PAUSED and entry.number not in hopeless]
        rungs = sorted({entry.epochs for entry in paused}, reverse=True)
        for last, rung, bracket in itertools.product((False, complete), rungs, range(self.brackets)):
            chosen = self._promotable(entries, paused, bracket, rung, last)
            if chosen is not None:
                return Decision(Continue(chosen, self._after(rung)), stop)
        return Decision(stop=stop)

    def _promotable(
        self, entries: Sequence[Entry], paused: Sequence[Entry], bracket: int, rung: int, last: bool
    ) -> Entry | None:
        """The best paused trial of a rung that is among the best of all that have reached it. `last`: nothing is
        promotable otherwise, and no new trial will be made."""
        mine = [entry for entry in entries if self._bracket(entry.number) == bracket]
        reached = ordered(self.recipe, mine, rung)
        final = last and not any(entry.phase is Phase.RUNNING and entry.epochs < rung for entry in mine)
        places = max(len(reached) // self.recipe.stopping.reduction_factor, 1 if final else 0)
        numbers = {entry.number for entry in paused if entry.epochs == rung}
        return next((entry for entry in reached[:places] if entry.number in numbers), None)

    def _rung(self, index: int) -> int:
        stopping = self.recipe.stopping
        return int(stopping.grace_epochs * stopping.reduction_factor**index)

    def _after(self, epochs: int) -> int:
        """The rung after a number of epochs."""
        index = 0
        while self._rung(index) <= epochs:
            index += 1
        return self._rung(index)

    def _bracket(self, number: int) -> int:
        """The bracket of a trial: of each round, as many as let the brackets have the same number of epochs."""
        return _shares(self.brackets, self.recipe.stopping.reduction_factor, number)[number - 1]


@cache
def _shares(brackets: int, factor: int, count: int) -> tuple[int, ...]:
    """The brackets of the first trials: each time that which lacks most of its share."""
    steps = [brackets - 1 - bracket for bracket in range(brackets)]
    weights = np.array([math.ceil(brackets / (step + 1) * factor**step) for step in steps], float)
    made, result = np.zeros(brackets), []
    for number in range(1, count + 1):
        bracket = int(np.argmax(weights / weights.sum() * number - made))
        made[bracket] += 1
        result.append(bracket)
    return tuple(result)


# --- Median ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MedianStopping:
    """A trial ends when its best value so far is worse than the median of the others' means up to the same epoch:
    Golovin et al., "Google Vizier: A service for black-box optimization", 2017. With several objectives: when it is in
    the worse half of those that were trained as long, by Pareto rank."""

    recipe: SweepRecipe

    def first(self, number: int) -> int:
        return self.recipe.stopping.grace_epochs

    def decide(self, entries: Sequence[Entry], complete: bool) -> Decision:
        stop = []
        for entry in (each for each in entries if each.phase is Phase.PAUSED):
            if reason := misses(self.recipe, entry) or self._worse(entry, entries):
                stop.append((entry, reason))
            else:
                return Decision(Continue(entry, entry.epochs + self.recipe.stopping.grace_epochs), stop)
        return Decision(stop=stop)

    def _worse(self, entry: Entry, entries: Sequence[Entry]) -> str:
        epochs = entry.epochs
        known = (other for other in entries if other.phase is not Phase.FAILED and other.number != entry.number)
        others = [other for other in known if other.epochs >= epochs]
        if len(others) < COMPARABLE:
            return ""
        if len(self.recipe.objectives) > 1:
            places = [each.number for each in ordered(self.recipe, [*others, entry], epochs)]
            place = places.index(entry.number) if entry.number in places else len(places)
            worse = place > len(others) / 2
            return f"in the worse half of {len(others) + 1} trials after {epochs} epochs" if worse else ""
        objective = self.recipe.objectives[0]
        losses = [_losses(objective, each.curve[:epochs]) for each in (entry, *others)]
        best, median = min(losses[0]), float(np.median([np.mean(each) for each in losses[1:]]))
        if best <= median:
            return ""
        value = f"{objective.loss(best):.4g}" if math.isfinite(best) else "has no value"  # a loss is its own inverse
        middle = objective.loss(median)
        return f"{objective.metric} {value} after {epochs} epochs, the median of {len(others)} others {middle:.4g}"


def _losses(objective: SweepObjective, curve: Sequence[Metrics]) -> list[float]:
    """The loss after each epoch; infinite, as the worst, where the objective was no finite number."""
    return [objective.loss(epoch[objective.metric]) if objective.metric in epoch else math.inf for epoch in curve]


# --- Population --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Population:
    """Jaderberg et al., "Population based training of neural networks", 2017, with truncation selection: every
    `graceEpochs` all trials are compared; of `reductionFactor` trials the worst one goes on from the weights of one of
    the best, with values near its. A generation is ranked by what each trial had reached by itself when all had paused,
    however many have gone on since: it is a function of journal, seed and number of epochs."""

    recipe: SweepRecipe

    def first(self, number: int) -> int:
        return self.recipe.stopping.grace_epochs

    def decide(self, entries: Sequence[Entry], complete: bool) -> Decision:
        alive = [entry for entry in entries if not entry.phase.has_ended]
        if not complete or not alive:
            return Decision()
        epochs = min(entry.epochs for entry in alive)
        due = [entry for entry in alive if entry.phase is Phase.PAUSED and entry.epochs == epochs]
        if not due:  # all of the generation are at work
            return Decision(wait=True)
        until = epochs + self.recipe.stopping.grace_epochs
        ranking = self._ranking(entries, epochs, until)
        share = len(ranking) // self.recipe.stopping.reduction_factor
        worst = {entry.number for entry in ranking[len(ranking) - share :]}
        best = [entry.number for entry in ranking[:share] if entry in due]  # others have moved on from these weights
        chosen = min(due, key=lambda entry: (entry.number not in worst, entry.number))  # before the best have moved on
        if chosen.number not in worst or not best:
            return Decision(Continue(chosen, until))
        source = random.Random((self.recipe.search.seed * MIX + epochs) * MIX + chosen.number)
        better = source.choice(best)
        values = next(entry.keyed for entry in due if entry.number == better)
        return Decision(Continue(chosen, until, explore(self.recipe.parameters, values, source), better))

    def _ranking(self, entries: Sequence[Entry], epochs: int, until: int) -> list[Entry]:
        """The trials of the generation that pauses after `epochs` and goes on to `until`, the best first."""
        measured = []
        for entry in entries:
            if entry.until == until:  # has gone on from here
                measured.append((entry, entry.reached))
            elif entry.phase is Phase.PAUSED and entry.epochs == epochs:
                measured.append((entry, metrics_at(self.recipe, entry, epochs)))
        return _best_first(self.recipe, measured)


__all__ = ["Continue", "Decision", "Scheduler", "misses", "ordered", "scheduler_of"]
