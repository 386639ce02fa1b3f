"""The registry: every package beside this file registers the task that it defines."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TypeVar

from fovea_api.common import Task
from fovea_api.errors import NotSupported

from fovea_trainer.tasks.base import TaskDefinition

D = TypeVar("D", bound=TaskDefinition)


class TaskRegistry:
    """Definitions by task."""

    def __init__(self) -> None:
        self._definitions: dict[Task, TaskDefinition] = {}

    def register(self, definition: type[D]) -> type[D]:
        """Decorator of a definition, of which one is made. Raises ValueError: a task can be defined once."""
        if definition.task in self._definitions:
            raise ValueError(f"the task {definition.task} is defined twice")
        self._definitions[definition.task] = definition()
        return definition

    def __getitem__(self, task: Task) -> TaskDefinition:
        if task not in self._definitions:
            known = ", ".join(sorted(self._definitions))
            raise NotSupported(f"the trainer does not know the task {task}", "spec.task", f"use one of {known}")
        return self._definitions[task]


REGISTRY = TaskRegistry()
register = REGISTRY.register


def definition(task: Task) -> TaskDefinition:
    """All that the trainer knows of a task. Raises NotSupported."""
    return _loaded()[task]


@cache
def _loaded() -> TaskRegistry:
    from fovea_trainer import tasks

    for module in pkgutil.iter_modules(tasks.__path__):
        if module.ispkg:
            importlib.import_module(f"{tasks.__name__}.{module.name}")
    return REGISTRY
