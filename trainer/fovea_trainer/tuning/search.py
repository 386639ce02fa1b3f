"""How values are proposed: by Optuna's samplers, which are asked with what the journal has.

An Optuna study is made in memory at each question, so that a proposal is a function of journal, seed and number of the
trial: nothing of a searcher has to be saved. What a trial is worth on the way is its value after the longest training
that enough others have reached, too: Falkner et al., "BOHB: Robust and efficient hyperparameter optimization at scale",
2018. Limits are constraints of the samplers.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fovea_api.common import Metrics
from fovea_api.search_space import Values, holds
from fovea_api.tuningsweep import Parameter, SweepRecipe
from pydantic import JsonValue

from fovea_trainer.tuning.journal import Entry, Phase
from fovea_trainer.tuning.ranking import losses_of, violations_of

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

STARTUP_TRIALS = 10
"""Random trials before a model of the objective is trusted; Optuna's own default."""
POPULATION = 20
"""Trials of a generation of NSGA2: sweeps have tens of trials, not the thousands that 50 are meant for."""
MIX = 100_003
"""Seeds of two trials differ by this, a prime."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Values to be tried.

    Args:
        keyed: By the key of the parameter, as they were drawn.
        values: By path.
        attributes: What the sampler wants to know again of this trial.
    """

    keyed: Values
    values: Values
    attributes: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """An earlier sweep's trial: its values by path, and what was measured."""

    values: Values
    metrics: Metrics


def propose(
    recipe: SweepRecipe, entries: Sequence[Entry], number: int, earlier: Sequence[Known] = (), draw: int = 0
) -> Proposal | None:
    """Values of the next trial; None where every combination of a grid was tried.

    Args:
        recipe: The sweep.
        entries: All trials so far.
        number: Number of the trial that is to be made.
        earlier: Trials of an earlier sweep.
        draw: How many proposals of this trial could not be trained: each draw is another one.
    """
    if recipe.search.algorithm == "Grid":
        return _next_of_grid(recipe.parameters, entries, draw)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directions = [optuna.study.StudyDirection.MINIMIZE] * len(recipe.objectives)
        sampler = _sampler(recipe, recipe.search.seed + MIX * number + draw)
        study = optuna.create_study(sampler=sampler, directions=directions)
        study.add_trials([*_earlier_trials(recipe, earlier), *_trials(recipe, entries)])
        trial = study.ask()
        keyed = {parameter.key: value for parameter, value in _suggest(trial, recipe.parameters)}
        kept = study._storage.get_trial_system_attrs(trial._trial_id)
        attributes = {name: value for name, value in kept.items() if _is_json(value)}
    return Proposal(keyed, by_path(recipe.parameters, keyed), attributes)


def by_path(parameters: Sequence[Parameter], keyed: Values) -> dict[str, JsonValue]:
    """Values by path, of those by key."""
    return {parameter.path: keyed[parameter.key] for parameter in parameters if parameter.key in keyed}


def distribution(parameter: Parameter) -> BaseDistribution:
    """What Optuna draws from; a choice as the JSON texts of its values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choice is not None:
        return CategoricalDistribution([json.dumps(value, sort_keys=True) for value in parameter.choice])
    if parameter.int_uniform is not None:
        bounds = parameter.int_uniform
        high = bounds.min + (bounds.max - bounds.min) // bounds.step * bounds.step
        return IntDistribution(bounds.min, high, step=bounds.step)
    if parameter.log_uniform is not None:
        return FloatDistribution(parameter.log_uniform.min, parameter.log_uniform.max, log=True)
    assert parameter.uniform is not None
    return FloatDistribution(parameter.uniform.min, parameter.uniform.max)


def _suggest(trial: optuna.Trial, parameters: Sequence[Parameter]) -> Iterator[tuple[Parameter, JsonValue]]:
    """A value of each parameter that is varied; those without a condition first."""
    values: dict[str, JsonValue] = {}
    for parameter in sorted(parameters, key=lambda each: each.when is not None):
        if holds(parameter, values):
            drawn = trial._suggest(parameter.key, distribution(parameter))  # suggest_* take no ready distribution
            value: JsonValue = json.loads(drawn) if parameter.choice is not None else drawn
            values[parameter.path] = value
            yield parameter, value


def _sampler(recipe: SweepRecipe, seed: int) -> BaseSampler:
    from optuna import samplers

    match recipe.search.algorithm:
        case "TPE":
            return samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
            )
        case "GaussianProcess":
            return samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
        case "NSGA2":
            return samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        case _:
            return samplers.RandomSampler(seed=seed)


def _trials(recipe: SweepRecipe, entries: Sequence[Entry]) -> Iterator[optuna.trial.FrozenTrial]:
    """The journal's trials as Optuna knows them."""
    from optuna.trial import TrialState, create_trial

    epochs = compared_epochs(entries, len(recipe.parameters))
    distributions = {parameter.key: parameter for parameter in recipe.parameters}
    for entry in entries:
        if entry.phase is Phase.FAILED:
            continue
        drawn = {key: _as_drawn(distributions[key], value) for key, value in entry.keyed.items()}
        metrics = metrics_at(recipe, entry, epochs)
        losses = losses_of(recipe.objectives, metrics)
        known = {key: distribution(distributions[key]) for key in drawn}
        yield create_trial(
            state=TrialState.RUNNING if losses is None else TrialState.COMPLETE,
            values=None if losses is None else list(map(float, losses)),
            params=drawn,
            distributions=known,
            system_attrs=dict(entry.attributes),
            constraints=violations_of(recipe.objectives, metrics),
        )


def _earlier_trials(recipe: SweepRecipe, earlier: Sequence[Known]) -> Iterator[optuna.trial.FrozenTrial]:
    """Trials of an earlier sweep as Optuna knows them: those within the space, with a value of each objective."""
    from optuna.trial import create_trial

    for known in earlier:
        losses = losses_of(recipe.objectives, known.metrics)
        varied = [parameter for parameter in recipe.parameters if holds(parameter, known.values)]
        if losses is None or any(parameter.path not in known.values for parameter in varied):
            continue
        drawn = {parameter.key: _as_drawn(parameter, known.values[parameter.path]) for parameter in varied}
        distributions = {parameter.key: distribution(parameter) for parameter in varied}
        if all(_contains(distributions[key], value) for key, value in drawn.items()):
            constraints = violations_of(recipe.objectives, known.metrics)
            yield create_trial(
                values=list(map(float, losses)), params=drawn, distributions=distributions, constraints=constraints
            )


def _contains(known: BaseDistribution, value: JsonValue) -> bool:
    try:
        return known._contains(known.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _as_drawn(parameter: Parameter, value: JsonValue) -> JsonValue:
    return json.dumps(value, sort_keys=True) if parameter.choice is not None else value


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


# --- What a trial is worth on the way ----------------------------------------------------------------------------


def compared_epochs(entries: Sequence[Entry], parameters: int) -> int | None:
    """The longest training after which there are enough trials for a model: one more than parameters, and two (BOHB).

    None: too few have ended anything; whatever there is, is compared.
    """
    reached = sorted(
        (entry.epochs for entry in entries if entry.curve and entry.phase is not Phase.FAILED), reverse=True
    )
    enough = parameters + 3
    return reached[enough - 1] if len(reached) >= enough else None


def metrics_at(recipe: SweepRecipe, entry: Entry, epochs: int | None) -> dict[str, float]:
    """What is known of a trial after some epochs: the best value of each objective so far, as the best epoch is what
    gets exported; of the artefact where the trial has ended by then. None: after all of its epochs."""
    at_end = epochs is None or entry.epochs <= epochs
    if epochs is not None and entry.epochs < epochs and not entry.phase.has_ended:
        return {}
    if entry.measured and at_end:
        return dict(entry.artefact)
    return {**entry.artefact, **best_so_far(recipe, entry.curve[: epochs or None])}


def best_so_far(recipe: SweepRecipe, curve: Sequence[Metrics]) -> dict[str, float]:
    """The best value of each objective in the epochs that are given."""
    result: dict[str, float] = {}
    for objective in recipe.objectives:
        values = [metrics[objective.metric] for metrics in curve if objective.metric in metrics]
        if values:
            result[objective.metric] = min(values, key=objective.loss)
    return result


# --- Grid --------------------------------------------------------------------------------------------------------


def grid(parameters: Sequence[Parameter]) -> Iterator[Values]:
    """Every combination of the choices by key, each once, also where conditions leave parameters out."""
    free = [parameter for parameter in parameters if parameter.when is None]
    for chosen in itertools.product(*(parameter.choice or () for parameter in free)):
        values = {parameter.path: value for parameter, value in zip(free, chosen, strict=True)}
        varied = [parameter for parameter in parameters if parameter.when is not None and holds(parameter, values)]
        for more in itertools.product(*(parameter.choice or () for parameter in varied)):
            pairs = zip((*free, *varied), (*chosen, *more), strict=True)
            yield {parameter.key: value for parameter, value in pairs}


def grid_size(parameters: Sequence[Parameter], most: int) -> int:
    """Number of combinations, counted up to `most`."""
    return sum(1 for _ in itertools.islice(grid(parameters), most))


def _next_of_grid(parameters: Sequence[Parameter], entries: Sequence[Entry], draw: int) -> Proposal | None:
    tried = [dict(entry.keyed) for entry in entries]
    left = (keyed for keyed in grid(parameters) if dict(keyed) not in tried)
    keyed = next(itertools.islice(left, draw, None), None)
    return None if keyed is None else Proposal(keyed, by_path(parameters, keyed))


# --- Population --------------------------------------------------------------------------------------------------

RESAMPLE = 0.25
"""Chance that a value is drawn anew instead of changed."""
FACTORS = (0.8, 1.2)
"""What a number is multiplied by."""


def explore(parameters: Sequence[Parameter], keyed: Values, source: random.Random) -> dict[str, JsonValue]:
    """Values near those of a better trial: Jaderberg et al., "Population based training of neural networks", 2017. A
    number is multiplied by 0.8 or 1.2 within its range, a choice moves to a neighbour; one in four is drawn anew."""
    result: dict[str, JsonValue] = {}
    values: dict[str, JsonValue] = {}
    for parameter in sorted(parameters, key=lambda each: each.when is not None):
        if not holds(parameter, values):
            continue
        value = keyed.get(parameter.key)
        if parameter.key not in keyed or source.random() < RESAMPLE:
            value = _drawn(parameter, source)
        elif parameter.choice is not None:
            value = _neighbour(parameter.choice, value, source)
        else:
            assert isinstance(value, int | float)
            value = _within(parameter, value * source.choice(FACTORS))
        result[parameter.key] = values[parameter.path] = value
    return result


def _drawn(parameter: Parameter, source: random.Random) -> JsonValue:
    if parameter.choice is not None:
        return source.choice(parameter.choice)
    bounds = parameter.uniform or parameter.log_uniform or parameter.int_uniform
    assert bounds is not None
    if parameter.log_uniform is not None:
        return float(bounds.min * (bounds.max / bounds.min) ** source.random())
    return _within(parameter, source.uniform(bounds.min, bounds.max))


def _neighbour(choice: Sequence[JsonValue], value: JsonValue, source: random.Random) -> JsonValue:
    index = list(choice).index(value) + source.choice((-1, 0, 1))
    return choice[min(max(index, 0), len(choice) - 1)]


def _within(parameter: Parameter, value: float) -> JsonValue:
    """The nearest value of the range."""
    bounds = parameter.uniform or parameter.log_uniform or parameter.int_uniform
    assert bounds is not None
    value = min(max(value, bounds.min), bounds.max)
    if (whole := parameter.int_uniform) is not None:
        steps = min((whole.max - whole.min) // whole.step, round((value - whole.min) / whole.step))
        return whole.min + steps * whole.step
    return value
