"""What networks are for, one file a task."""

from __future__ import annotations

from kdcompress.artifact import InputSpec
from kdcompress.registry import Registry
from kdcompress.task import Task

tasks: Registry[Task] = Registry("task", "kdcompress.tasks")


def task_of(spec: InputSpec) -> Task:
    """What judges the outputs of a file: its task, with the threshold that it ships with."""
    return tasks[spec.task].judging(threshold=spec.threshold)
