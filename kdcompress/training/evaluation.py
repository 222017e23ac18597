"""How well a network in training answers. What ships is evaluated by its own runner, not here."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcompress.data.loader import eval_batches
from kdcompress.data.source import Split
from kdcompress.training.distillation import Member


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
