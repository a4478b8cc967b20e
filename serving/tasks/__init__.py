"""The tasks, one file each. `task_named` finds the file by the task's name."""

from __future__ import annotations

import importlib
import pkgutil

from serving.errors import SpecInvalid
from serving.tasks.base import Task

__all__ = ["task_named", "task_names"]

_NOT_TASKS = {"audio_session", "base", "boxes", "events", "pitch_places", "rules"}


def task_names() -> tuple[str, ...]:
    """Every task that has a file here."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_TASKS))


def task_named(name: str) -> Task:
    """The task of that name; SpecInvalid lists the known ones."""
    if name not in task_names():
        raise SpecInvalid(f"unknown task {name!r}; known tasks: {', '.join(task_names())}")
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
