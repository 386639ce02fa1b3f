"""The registry: every package beside this file registers the task that it defines."""

from __future__ import annotations

from typing import TypeVar

from fovea_api.common import Task
from fovea_api.errors import NotSupported
from fovea_serving.registry import Registry

from fovea_trainer.tasks.base import TaskDefinition

D = TypeVar("D", bound=TaskDefinition)

_DEFINITIONS: Registry[TaskDefinition] = Registry("fovea_trainer.tasks", "a task")


def register(definition: type[D]) -> type[D]:
    """Decorator of a definition, of which one is made. A task can be defined once."""
    _DEFINITIONS.register(definition.task)(definition())
    return definition


def definition(task: Task) -> TaskDefinition:
    """All that the trainer knows of a task. Raises NotSupported."""
    definitions = _DEFINITIONS.entries()
    if task not in definitions:
        known = ", ".join(sorted(definitions))
        raise NotSupported(f"the trainer does not know the task {task}", "spec.task", f"use one of {known}")
    return definitions[task]
