"""How well a network in training answers. What ships is evaluated by its own runner, not here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kdcompress.data.loader import eval_batches
from kdcompress.data.splits import Split
from kdcompress.models.answers import shipped
from kdcompress.recipe import Train
from kdcompress.runner import joined
from kdcompress.task import Outputs, Task
from kdcompress.training.compiling import eager
from kdcompress.training.distillation import Member
from kdcompress.training.moving_average import EMA

BATCH = 512  # images


@torch.no_grad()
def predict(member: Member, split: Split, device: torch.device, task: Task, channels_last: bool = False) -> Outputs:
    """What the task keeps of the outputs to ``split``, as of a file: in eval mode, on the device; in float32 unless
    autocast is on."""
    training = member.training
    member.eval()
    found = []
    for batch in eval_batches(split, BATCH, device, channels_last):
        answer = member(batch.x).answer
        assert answer is not None
        outputs = tuple(output.float().cpu().numpy() for output in shipped(answer))
        found.append(tuple(task.kept(outputs, (batch.x.shape[-2], batch.x.shape[-1]))))
    member.train(training)
    return joined(found)


def score(member: Member, split: Split, device: torch.device, task: Task, channels_last: bool = False) -> float:
    """The task's figure on ``split``."""
    return task.score(predict(member, split, device, task, channels_last), split.truth)


def validate(
    student: Member,
    options: Train,
    average: EMA | None,
    autocast: Callable[[], AbstractContextManager[Any]],
    figure: Callable[[], float],
) -> tuple[float, dict[str, Tensor]]:
    """What ``figure`` finds, and the weights that reached it, on the CPU: the network's, or those of the ``average``
    where there is one. In the training's precision: twice as fast in bf16."""
    with nullcontext() if average is None else average.lent_to(student.net):
        with autocast(), eager(options.compile):
            reached = figure()
        return reached, {k: v.detach().cpu().clone().contiguous() for k, v in student.net.state_dict().items()}
