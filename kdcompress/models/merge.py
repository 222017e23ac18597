"""Branches that are there for the training alone, merged into one convolution for what ships.

RepVGG: Making VGG-style ConvNets Great Again. Ding et al., CVPR 2021, arXiv:2101.03697, section 3.3: a convolution and
a batch norm are linear, and so is a sum of them. MobileOne, FastViT, RepViT and others are trained so; each says itself
how its blocks are merged, by a method of one of the three names in use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcompress.console import say
from kdcompress.models.answers import answer_of, shipped
from kdcompress.models.copying import copied
from kdcompress.models.evaluating import evaluating

NAMES = ("fuse", "reparameterize", "switch_to_deploy")
TOLERANCE = 1e-3  # of an output's largest magnitude


def merged(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``net`` whose blocks have merged their branches; ``net`` itself where none offers to, and, with a word
    on why, where what comes out does not give the outputs of ``net`` for ``example``, a batch [N, C, H, W]."""
    if not any(_offer(module) for module in net.modules() if module is not net):
        return net
    kept = f"The branches of {type(net).__name__} are not merged"
    try:
        ships = copied(net).eval()
        merge_branches(ships)
        with evaluating(net), torch.inference_mode():
            both = zip(*(shipped(answer_of(each(example))) for each in (net, ships)), strict=True)
        error = max(float((got - expected).abs().max() / expected.abs().max()) for expected, got in both)
    except Exception as problem:  # a network's own code can fail in any way
        say(f"{kept}: {type(problem).__name__}: {problem}")
        return net
    if not error <= TOLERANCE:
        say(f"{kept}: the outputs would change by {error:.1g} of the largest one.")
        return net
    return ships


def _offer(module: nn.Module) -> str | None:
    return next((name for name in NAMES if callable(getattr(module, name, None))), None)


def merge_branches(module: nn.Module) -> None:
    """In place, and nothing is compared."""
    for name, child in module.named_children():
        if offer := _offer(child):
            made = getattr(child, offer)()
            if isinstance(made, nn.Module):  # else it has changed in place
                child = made
                setattr(module, name, child)
        merge_branches(child)
