"""The search space of a sweep: which recipe a trial's values make, and what can never work.

The API server refuses what a rule over a few fields shows. Here is what takes the catalogue of architectures, the names
of the metrics and the Dataset; the operator and a run by hand hold themselves to the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue, ValidationError

from fovea_api.architectures import find
from fovea_api.choice import AUTO
from fovea_api.common import Task
from fovea_api.compatibility import incompatibilities, unmeasured
from fovea_api.dataset import DatasetSpec
from fovea_api.errors import FoveaError, InvalidInput, problems
from fovea_api.metrics import monitorable
from fovea_api.partial import merge
from fovea_api.paths import with_at
from fovea_api.trainingjob import Recipe, TrainingJobSpec
from fovea_api.tuningsweep import OPTIONS_PREFIX, Parameter, TuningSweepSpec

Values = Mapping[str, JsonValue]
"""Path of a parameter -> its value."""
GPU = "nvidia.com/gpu"


class ImpossibleSpace(InvalidInput):
    """A value of a parameter that no trial can be trained with."""


def holds(parameter: Parameter, values: Values) -> bool:
    """Whether a parameter is varied, given the values of those without a condition."""
    when = parameter.when
    return when is None or values.get(when.path) in when.values


def trial_recipe(template: Recipe, values: Values) -> Recipe:
    """The template with a trial's values. Raises pydantic's ValidationError if the result breaks a rule."""
    part: dict[str, JsonValue] = {}
    if any(path.startswith(OPTIONS_PREFIX) for path in values):
        part = {"model": {"options": dict(template.model.options)}}
    for path, value in values.items():
        part = with_at(part, path, value)
    return merge(template, part)


def extremes(parameter: Parameter) -> Sequence[JsonValue]:
    """All values of a choice, and the two ends of a range."""
    bounds = parameter.uniform or parameter.log_uniform or parameter.int_uniform
    return parameter.choice or (() if bounds is None else (bounds.min, bounds.max))


def impossibilities(spec: TuningSweepSpec, dataset: DatasetSpec | None = None) -> tuple[InvalidInput, ...]:
    """All of a sweep that can never work, each with its field and the remedy; `dataset` where it is known."""
    conditions = (*_wrong_conditions(spec.parameters), *_overlaps(spec.parameters))
    if conditions:
        return conditions
    return (
        *_impossible_values(spec, dataset),
        *_unmeasured_objectives(spec, dataset),
        *_idle_budget(spec),
        *_unfit_weights(spec),
    )


def _wrong_conditions(parameters: Sequence[Parameter]) -> Iterator[InvalidInput]:
    """Conditions on values that the other parameter never has."""
    choices = {parameter.path: parameter.choice or () for parameter in parameters if parameter.when is None}
    for index, parameter in enumerate(parameters):
        for value in parameter.when.values if parameter.when is not None else ():
            if parameter.when is not None and value not in choices[parameter.when.path]:
                known = ", ".join(map(str, choices[parameter.when.path]))
                yield ImpossibleSpace(
                    f"{parameter.when.path} is never {value}", f"spec.parameters[{index}].when.values", f"it is {known}"
                )


def _overlaps(parameters: Sequence[Parameter]) -> Iterator[InvalidInput]:
    """Cases of one path of which two can hold at once."""
    for index, parameter in enumerate(parameters):
        for other in parameters[:index]:
            if parameter.path != other.path or parameter.when is None or other.when is None:
                continue
            same = parameter.when.path == other.when.path
            if not same or any(value in other.when.values for value in parameter.when.values):
                yield ImpossibleSpace(
                    f"the cases {other.case!r} and {parameter.case!r} of {parameter.path} can hold at once",
                    f"spec.parameters[{index}].when",
                    "let both depend on the same parameter, with different values",
                )


def _impossible_values(spec: TuningSweepSpec, dataset: DatasetSpec | None) -> Iterator[InvalidInput]:
    """Values with which no trial can be trained, whatever one other parameter is."""
    for index, parameter in enumerate(spec.parameters):
        for value in extremes(parameter):
            found: FoveaError | None = None
            for values in _around(spec.parameters, parameter, value):
                error = _refusal(spec.template.spec, values, dataset)
                if error is None:
                    break
                found = found or error
            else:
                assert found is not None
                place = f"spec.parameters[{index}]{f'.when on {parameter.when.path}' if parameter.when else ''}"
                yield ImpossibleSpace(f"{parameter.path} = {value}: {found.message}", place, found.remedy)


def _around(parameters: Sequence[Parameter], varied: Parameter, value: JsonValue) -> Iterator[Values]:
    """Combinations with a value of one parameter: the first of all others, and with one of them changed."""
    others = [each for each in parameters if each.path != varied.path]
    base: dict[str, JsonValue] = {each.path: extremes(each)[0] for each in others if each.when is None}
    if varied.when is not None:
        base[varied.when.path] = varied.when.values[0]
    fixed = varied.when.path if varied.when is not None else ""
    changes = [(each.path, other) for each in others if each.when is None and each.path != fixed
               for other in extremes(each)[1:]]  # fmt: skip
    for change in ({}, *({path: other} for path, other in changes)):
        values = {**base, **change}
        dependent = {each.path: extremes(each)[0] for each in others if each.when is not None and holds(each, values)}
        yield {**values, **dependent, varied.path: value}


def _refusal(template: TrainingJobSpec, values: Values, dataset: DatasetSpec | None) -> FoveaError | None:
    """Why the recipe that these values make cannot be trained; None: it can."""
    try:
        recipe = trial_recipe(template.recipe(), values)
    except ValidationError as error:
        field, text = next(problems(error, Recipe))
        return InvalidInput(f"{field}: {text}")
    except KeyError as error:
        return InvalidInput(f"there is no field {error.args[0]}")
    if recipe.model.architecture == AUTO:
        words = "a trial trains one architecture"
        return InvalidInput(words, "spec.parameters", "list the architectures to compare")
    plain = template.model_copy(update={**dict(recipe), "success_criteria": ()})
    return next(iter(incompatibilities(plain, dataset)), None)


def refusal(template: Recipe, values: Values) -> FoveaError | None:
    """Why no trial can be trained with these values; None: one can."""
    spec = TrainingJobSpec.model_validate({"datasetRef": {"name": "any"}, "model": {"architecture": "any"}})
    return _refusal(spec.model_copy(update=dict(template)), values, None)


def _unmeasured_objectives(spec: TuningSweepSpec, dataset: DatasetSpec | None) -> Iterator[InvalidInput]:
    """Objectives that nobody measures on the artefact, or after an epoch where trials are compared on the way."""
    template = spec.template.spec
    varied = next((each.choice for each in spec.parameters if each.path == "model.architecture"), None)
    try:
        task = find(str(varied[0]) if varied else template.model.architecture).task
    except InvalidInput as unknown:
        if varied is None:
            yield unknown
        return
    classes = dataset.classes if dataset is not None else ()
    splits = ("validation",)
    for index, objective in enumerate(spec.objectives):
        place = f"spec.objectives[{index}].metric"
        error = unmeasured(objective.metric, place, task, splits, template.evaluation.slices, classes)
        if error is not None:
            yield error
        elif objective.metric.startswith("validation/") and compares_on_the_way(spec):
            yield from _not_after_an_epoch(objective.metric, place, task)


def compares_on_the_way(spec: TuningSweepSpec) -> bool:
    """Whether trials are compared before they end."""
    return spec.stopping.scheduler != "None" or spec.search.algorithm == "PopulationBased"


def _not_after_an_epoch(metric: str, place: str, task: Task) -> Iterator[InvalidInput]:
    if metric not in (known := monitorable(task)):
        names = ", ".join(name for name in known if not name.endswith("/loss"))
        yield InvalidInput(
            f"{metric} is not measured after an epoch, by which trials are stopped early",
            place,
            f"use one of {names}, or the scheduler None",
        )


def _idle_budget(spec: TuningSweepSpec) -> Iterator[InvalidInput]:
    """GPU hours of trials that use no GPU: such a budget never ends."""
    compute = spec.compute or spec.template.spec.compute
    if spec.budget.gpu_hours is not None and GPU not in compute.resources.limits:
        yield InvalidInput(
            "the trials use no GPU, so this budget is never spent",
            "spec.budget.gpuHours",
            f"use cpuHours or wallClock, or ask for {GPU} in compute.resources.limits",
        )


def _unfit_weights(spec: TuningSweepSpec) -> Iterator[InvalidInput]:
    """A bundle to start from, which is of one architecture, where several are tried."""
    pretrained = spec.template.spec.model.pretrained
    several = any(parameter.path == "model.architecture" for parameter in spec.parameters)
    if several and pretrained.weights is None:
        yield ImpossibleSpace(
            "the weights to start from are of one architecture, and several are tried",
            "spec.template.spec.model.pretrained",
            "give weights, or do not vary model.architecture",
        )


__all__ = ["ImpossibleSpace", "Values", "compares_on_the_way", "extremes", "holds", "impossibilities", "refusal",
           "trial_recipe"]  # fmt: skip
