"""A task is a package: it registers itself, and nothing else in the trainer asks which one it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import fovea_trainer
import numpy as np
import pytest
from fovea_api.common import Task
from fovea_api.errors import NotSupported
from fovea_serving.pipeline import Geometry, Prediction, Preprocess
from fovea_trainer.data.version import Split
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report.base import Image
from fovea_trainer.tasks import Labelled, Sample, TaskDefinition, definition, register
from fovea_trainer.tasks.base import EvaluationRequest, Pairs, StoredSample
from fovea_trainer.tasks.classification.targets import ClassTargets
from fovea_trainer.tasks.epoch_metrics import EpochMetrics
from fovea_trainer.tasks.registry import _DEFINITIONS
from torch import Tensor

ROOT = Path(fovea_trainer.__file__).parent
OWN = ("tasks", "data", "local.py")
"""The tasks themselves, and the readers of label formats, which know what they read labels for."""


def branches(tree: ast.AST) -> Iterator[int]:
    """Lines that compare with a member of Task, look one up, or ask for the class of a prediction."""
    kinds = {"Classification", "Detection", "SemanticSegmentation", "InstanceSegmentation"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Task":
            yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            names = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            if names & kinds:
                yield node.lineno


def declarations(tree: ast.AST) -> Iterator[int]:
    """Lines where a network or an architecture says which task it is for: `task = Task.X`, `task=Task.X`."""
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Assign | ast.keyword) else None
        names = (
            [target.id for target in node.targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.Assign)
            else []
        )
        if isinstance(value, ast.Attribute) and ("task" in names or getattr(node, "arg", None) == "task"):
            yield value.lineno


def test_nothing_but_the_tasks_branches_on_the_task() -> None:
    branching = []
    for file in sorted(ROOT.rglob("*.py")):
        if file.relative_to(ROOT).parts[0] not in OWN:
            tree = ast.parse(file.read_text("utf-8"))
            declared = set(declarations(tree))
            branching += [f"{file.relative_to(ROOT)}:{line}" for line in branches(tree) if line not in declared]
    assert not branching, "move what depends on the task into its package under tasks/"


class Counting(TaskDefinition):
    """A small task of a test's own: the number of objects, as one of C classes."""

    task = Task.INSTANCE_SEGMENTATION
    parity_tolerance = {"logits": 1e-3}
    informative_output = "logits"
    headline_metrics = ("accuracy",)
    unit = "images"

    def annotate(self, sample: Sample, image: Tensor, preprocess: Preprocess, geometry: Geometry) -> Labelled:
        return Labelled(image, classes={len(sample.labels): 1.0})

    def collate(self, items: Sequence[Labelled]) -> ClassTargets:
        raise NotImplementedError

    def class_counts(self, sample: Sample, num_classes: int) -> np.ndarray:
        return np.bincount([len(sample.labels)], minlength=num_classes)

    def check_learnable(self, train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
        return ()

    def epoch_metrics(self, num_classes: int) -> EpochMetrics:
        raise NotImplementedError

    def evaluate(self, pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
        raise NotImplementedError

    def right_answer(self, sample: StoredSample, num_classes: int) -> Prediction:
        raise NotImplementedError

    def draw_labels(self, sample: StoredSample, classes: Sequence[str]) -> Image:
        raise NotImplementedError

    def draw_prediction(
        self, sample: StoredSample, prediction: Prediction, evaluation: EvaluationResult
    ) -> tuple[Image, int]:
        raise NotImplementedError

    def how_to_read(self, evaluation: EvaluationResult) -> str:
        return ""


def test_a_task_registers_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {task: known for task, known in _DEFINITIONS.entries().items() if task != Counting.task}
    monkeypatch.setattr(_DEFINITIONS, "_entries", others)
    register(Counting)
    assert isinstance(definition(Task.INSTANCE_SEGMENTATION), Counting)
    with pytest.raises(ValueError, match="a task for InstanceSegmentation is registered twice"):
        register(Counting)


def test_the_packages_are_found_and_the_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in Task:
        assert definition(task).task is task
    others = {task: known for task, known in _DEFINITIONS.entries().items() if task != Counting.task}
    monkeypatch.setattr(_DEFINITIONS, "_entries", others)
    with pytest.raises(NotSupported, match=r"does not know the task InstanceSegmentation.*use one of Classification"):
        definition(Task.INSTANCE_SEGMENTATION)
