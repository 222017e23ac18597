"""What it takes to make answers of a file's outputs."""

from __future__ import annotations

import statistics
import time

from kdcompress.artifact import InputSpec
from kdcompress.task import Outputs, Size, Task
from kdcompress.tasks import tasks

TIMED_IMAGES = 64


def outside(spec: InputSpec) -> str:
    """What makes answers of a file's outputs outside it, where that takes time; "" where nothing does."""
    return tasks[spec.task].outside(spec.outputs)


def answer_ms(task: Task, outputs: Outputs, size: Size | None = None) -> float:
    """What it takes to make an answer of a file's outputs to one image: the median of these images, in milliseconds."""

    def once(i: int) -> float:
        one = [output[i : i + 1] for output in outputs]
        start = time.perf_counter()
        task.answers(task.kept(one, size))
        return 1e3 * (time.perf_counter() - start)

    once(0)  # the first call is slower
    return statistics.median(map(once, range(len(outputs[0]))))
