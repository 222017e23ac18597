"""What networks are for, one file a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.artifact import InputSpec
from kdcompress.registry import Registry
from kdcompress.task import Task

tasks: Registry[Task] = Registry("task", "kdcompress.tasks")


def task_of_run(document: Mapping[str, Any]) -> Task:
    """What judges the files of a run, by its report: its task, with the figure that its recipe names."""
    recipe = document["recipe"]
    return tasks[recipe.get("task", "classification")].judging(recipe.get("metric"))


def task_of(spec: InputSpec) -> Task:
    """What judges the outputs of a file: its task, with the threshold that it ships with."""
    return tasks[spec.task].judging(threshold=spec.threshold)
