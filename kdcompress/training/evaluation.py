"""How well a network in training answers. What ships is evaluated by its own runner, not here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kdcompress.data.loader import eval_batches
from kdcompress.data.source import Split
from kdcompress.recipe import Train
from kdcompress.training.compiling import eager
from kdcompress.training.distillation import Member
from kdcompress.training.moving_average import EMA


@torch.no_grad()
def predict(member: Member, split: Split, device: torch.device, channels_last: bool = False) -> Tensor:
    """Logits float32 [N, classes] of ``split``, in eval mode, on the device; in float32 unless autocast is on."""
    training = member.training
    member.eval()
    found = []
    for batch in eval_batches(split, 512, device, channels_last):
        found.append(member(batch.x).logits.float())
    member.train(training)
    return torch.cat(found)


def accuracy(member: Member, split: Split, device: torch.device, channels_last: bool = False) -> float:
    """Per cent of ``split`` classified correctly."""
    chosen = predict(member, split, device, channels_last).argmax(1)
    return per_cent(chosen == torch.from_numpy(split.labels).to(device))


def validate(
    student: Member,
    split: Split,
    options: Train,
    average: EMA | None,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[float, dict[str, Tensor]]:
    """Per cent of ``split`` classified correctly, and the weights that did so, on the CPU: the network's, or those of
    the ``average`` where there is one. In the training's precision: twice as fast in bf16."""
    with nullcontext() if average is None else average.lent_to(student.net):
        with autocast(), eager(options.compile):
            score = accuracy(student, split, device, options.channels_last)
        return score, {k: v.detach().cpu().clone().contiguous() for k, v in student.net.state_dict().items()}


def per_cent(right: Tensor) -> float:
    return 100.0 * right.double().mean().item()


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in per cent: how far confidence and accuracy lie apart, in ``bins`` bins of equal
    width, averaged over the images (Guo et al., ICML 2017, equation 3). ``logits`` [N, K], ``labels`` int64 [N]."""
    confidence, chosen = logits.float().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (chosen == labels).double() - confidence.double()
    sums = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, place, gap)
    return 100.0 * sums.abs().sum().item() / len(labels)
