"""A narrower copy of a trained network: whole channels are taken out, with torch-pruning (DepGraph, CVPR 2023)."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.answers import answer_of, class_logits
from kdcompress.models.copying import copied
from kdcompress.models.evaluating import evaluating
from kdcompress.models.wrapped import bare_inside
from kdcompress.optional import require

# name -> torch-pruning's class and its options. All are a channel's mean over the layers that lose it together.
IMPORTANCE: dict[str, tuple[str, dict[str, Any]]] = {
    "group-norm": ("GroupMagnitudeImportance", {"p": 2}),  # arXiv:2301.12900
    "lamp": ("LAMPImportance", {"p": 2}),  # arXiv:2010.07611
    "bn-scale": ("BNScaleImportance", {}),  # network slimming, arXiv:1708.06519
}


def prune(
    net: nn.Module,
    example: Tensor,
    ratio: float,
    importance: str = "group-norm",
    ranking: Literal["layer", "global"] = "layer",
    round_to: int | None = None,
) -> nn.Module:
    """A copy of ``net`` without its least important channels; those that are left keep their weights.

    example: a normalised batch [N, C, H, W], N >= 2.
    ratio: the share of the channels that goes, in 0..1.
    importance: a name in IMPORTANCE.
    ranking: "layer" takes the ratio from each layer, so that the shapes do not depend on the weights; "global" ranks
        the channels of all layers together.
    round_to: the channels that are left are the next lower multiple of it, one multiple at least; a layer that has
        fewer stays whole.

    The classes are never pruned. Of attention with one ``qkv`` layer, as timm's, every head loses the same dimensions
    and no head goes. The same weights give the same copy.

    Raises UsageError where the library cannot follow the network and where it finds nothing to take out.
    """
    pruning = require("torch_pruning", "pruning", "Pruning a network")
    kind, options = IMPORTANCE[importance]
    net = bare_inside(copied(net)).requires_grad_()  # the library reads the graph from autograd
    before = _size(net)
    attentions = [m for m in net.modules() if _has_heads(m)]
    try:
        with evaluating(net), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of parameters outside layers: their last axis is the channels
            classes = _logits(net(example)).shape[-1]
            pruner = pruning.BasePruner(
                net,
                example,
                getattr(pruning.importance, kind)(**options),
                pruning_ratio=ratio,
                global_pruning=ranking == "global",
                round_to=round_to or 1,
                num_heads={m.qkv: m.num_heads for m in attentions},
                in_channel_groups={},  # the library's defaults are shared by all its pruners
                out_channel_groups={},
                output_transform=_logits,
            )
            pruner.ignored_layers += _classifiers(pruner.DG)
            pruner._round_to = _to_take  # the library's may ask for all channels, and then takes none
            pruner.step()
            for attention in attentions:
                _fit_heads(attention)
            logits = _logits(net(example))
        _logits(copied(net).train()(example))  # heads that work in training alone were not seen
    except Exception as error:  # of any kind, from deep inside it
        raise UsageError(
            "torch-pruning cannot prune this network.",
            where=type(net).__name__,
            got=f"{type(error).__name__}: {' '.join(str(error).split()):.300}",
            hint="give the student by its name (`model`) in place of `prune`, or use another teacher",
        ) from error
    if logits.shape[-1] != classes or (ratio > 0 and _size(net) == before):
        what = "nothing" if logits.shape[-1] == classes else "some of the classes"
        raise UsageError(
            f"Pruning would take {what} out of this network.",
            where=type(net).__name__,
            got=f"ratio {ratio:g}, importance {importance}, round_to {round_to}",
            hint="a larger ratio, a smaller round_to, or another importance (bn-scale needs batch norms)",
        )
    return net


def _logits(output: Any) -> Tensor:
    return class_logits(answer_of(output))


def _classifiers(graph: Any) -> list[nn.Module]:
    """The layers whose outputs come out of the network with nothing that mixes channels behind them."""
    return [
        group[0].dep.target.module
        for group in graph.get_all_groups()
        if any(not dep.target.outputs and graph.is_out_channel_pruning_fn(dep.handler) for dep, _ in group)
    ]


def _to_take(asked: int, channels: int, multiple: int) -> int:
    """How many of a layer's channels go, so that what is left is a multiple, and one at least."""
    left = max((channels - asked) // multiple, 1) * multiple
    return max(channels - left, 0)


def _has_heads(module: nn.Module) -> bool:
    return isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(getattr(module, "num_heads", None), int)


def _fit_heads(attention: Any) -> None:
    """timm's attention keeps its dimensions beside its layers."""
    dim = attention.qkv.out_features // 3 // attention.num_heads
    for name, value in {"head_dim": dim, "attn_dim": dim * attention.num_heads, "scale": dim**-0.5}.items():
        if hasattr(attention, name):
            setattr(attention, name, value)


def _size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
