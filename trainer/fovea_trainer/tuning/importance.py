"""Which parameter decides whether a trial is good."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence

from fovea_api.sweep import TrialRecord, TrialState
from fovea_api.tuningsweep import SweepObjective, SweepRecipe

from fovea_trainer.tuning.search import distribution

MINIMUM = 5
"""Trials of which something can be said."""


def importances(trials: Sequence[TrialRecord], recipe: SweepRecipe, objective: SweepObjective) -> Mapping[str, float]:
    """Share of each parameter that all trials vary, by path, the largest first; empty where there are too few trials.

    PED-ANOVA: Watanabe et al., "PED-ANOVA: Efficiently quantifying hyperparameter importance in arbitrary subspaces",
    2023. Trials that were stopped early count with what they had reached.
    """
    import json

    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    parameters = [parameter for parameter in recipe.parameters if parameter.when is None]
    study = optuna.create_study(direction="minimize")
    for trial in trials:
        values = [metrics[objective.metric] for metrics in trial.curve if objective.metric in metrics]
        value = trial.metrics.get(objective.metric, min(values, key=objective.loss) if values else None)
        if trial.state is TrialState.FAILED or value is None:
            continue
        drawn = {
            parameter.path: json.dumps(trial.parameters[parameter.path], sort_keys=True)
            if parameter.choice is not None
            else trial.parameters[parameter.path]
            for parameter in parameters
        }
        known = {parameter.path: distribution(parameter) for parameter in parameters}
        study.add_trial(optuna.trial.create_trial(value=objective.loss(value), params=drawn, distributions=known))
    if len(study.trials) < MINIMUM or not parameters:
        return {}
    logging.getLogger("optuna").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
