"""What lies between the last map of a network and its logits."""

from __future__ import annotations

import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps import Tapped, Taps, averages


def look(tapped: Tapped) -> Taps:
    """The taps of two images of random pixels, in evaluation mode, without gradients."""
    pixels = torch.rand(2, *tapped.shapes.input, generator=torch.Generator().manual_seed(0))
    with evaluating(tapped.model), torch.no_grad():
        return tapped(pixels.to(next(tapped.model.parameters())))


def averaged(taps: Taps) -> bool:
    """Whether the classifier's input is the average of the last map: nothing but pooling lies between the two. It is
    not where a layer or a class token comes in."""
    return taps.pooled is not None and taps.last is not None and averages(taps.last, taps.pooled)


def classifier_of(tapped: Tapped, whose: str) -> nn.Linear | nn.Conv2d:
    """The layer that makes the logits. Raises UsageError where there is none."""
    classifier = tapped.classifier
    if not isinstance(classifier, (nn.Linear, nn.Conv2d)):
        raise UsageError(
            f"The {whose} has no linear layer that makes its logits from a pooled feature.",
            where=type(tapped.model).__name__,
            hint="use a method on logits or stages",
        )
    return classifier
