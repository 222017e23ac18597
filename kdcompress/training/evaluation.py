"""Accuracy of a network in training. What ships is evaluated by its own runner, not here."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcompress.data.loader import eval_batches
from kdcompress.data.source import Split
from kdcompress.training.distillation import Member


@torch.no_grad()
def accuracy(member: Member, split: Split, device: torch.device, channels_last: bool = False) -> float:
    """Per cent of ``split`` classified correctly, in eval mode and float32."""
    training = member.training
    member.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for batch in eval_batches(split, 512, device):
        x = batch.x.contiguous(memory_format=torch.channels_last) if channels_last else batch.x
        logits: Tensor = member(x).logits
        correct += (logits.argmax(1) == batch.y).sum()
    member.train(training)
    return 100.0 * correct.item() / len(split)
