"""What networks are for, one file a task."""

from __future__ import annotations

from kdcompress.registry import Registry
from kdcompress.task import Task

tasks: Registry[Task] = Registry("task", "kdcompress.tasks")
