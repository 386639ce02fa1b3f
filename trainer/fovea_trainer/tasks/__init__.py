"""The tasks: a package each, with all of training, evaluation and report that depends on what is predicted."""

from fovea_trainer.tasks.base import Labelled, LabelledSample, Sample, Targets, TaskDefinition
from fovea_trainer.tasks.registry import definition, register

__all__ = [
    "Labelled",
    "LabelledSample",
    "Sample",
    "Targets",
    "TaskDefinition",
    "definition",
    "register",
]
