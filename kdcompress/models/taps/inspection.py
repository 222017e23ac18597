"""What `kdcompress inspect --taps` shows: all that a dry run saw of a network, what is tapped of it, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.errors import UsageError, told
from kdcompress.models.answers import answer_of, class_logits
from kdcompress.models.build import build
from kdcompress.models.taps.choosing import chosen
from kdcompress.models.taps.dry_run import DryRun, watched
from kdcompress.models.taps.last_map import classifier_of, last_map, pooled_feature
from kdcompress.models.taps.places import stage_at
from kdcompress.models.taps.rule import by_rule
from kdcompress.models.taps.table import Call, Choice
from kdcompress.models.wrapped import bare_inside
from kdcompress.models.zoo import zoo

HOW = {"declared": "as timm declares them", "found": "by the rule"}


def inspection(name: str, size: int | None = None, channels: int = 3, classes: int = 10) -> dict[str, Any]:
    """The taps of the new network ``name`` (as ``build`` takes it) at squares of ``size`` pixels: by default what timm
    says of the network, 32 for the zoo, else 224. Plain data; ``calls`` is the table, a row for each call of a module.

    Where a recipe would have to name the stages they are those that the rule finds, and ``problem`` says why.

    Raises UsageError for a name that is not known and a network that does not run at that size.
    """
    if Path(name).exists():
        hint = "--taps takes a name as recipes have it: resnet8, timm/resnet18, package.module:callable"
        raise UsageError("The name of a model is wanted, not a file or folder.", where="--taps", got=name, hint=hint)
    model = bare_inside(build(name, classes, channels))
    size = size or _own_size(name, model)
    shape = [channels, size, size]
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    hint = "give the size of images that it is made for: --size"
    with told(f"{name} does not run on images {shape}.", where=name, hint=hint):
        run = watched(model, example)
        logits = class_logits(answer_of(run.result))
    classifier = classifier_of(run, logits.shape[-1])
    choice, problem = _choice(run)
    last = _last_map(run, classifier, logits)
    tapped = _tapped(choice, last, classifier)
    return {
        "model": name,
        "input": shape,
        "classes": logits.shape[-1],
        "taps": [call.path for call in choice.stages],
        "chosen": HOW[choice.how],
        **({"problem": problem} if problem else {}),
        "last map": str(stage_at(run, *last)) if last else None,
        "pooled feature": pooled_feature(run, classifier).shape[1] if classifier else None,
        "calls": [_row(run, call, tapped.get(call), choice.why.get(call)) for call in run.calls],
    }


def _own_size(name: str, model: nn.Module) -> int:
    declared: Any = getattr(model, "default_cfg", {}).get("input_size")  # timm's, channels first
    return 32 if name in zoo else declared[-1] if declared else 224


def _choice(run: DryRun) -> tuple[Choice, str | None]:
    """What a recipe without `taps` takes; or what the rule finds, and why nothing is taken."""
    try:
        return chosen(run), None
    except UsageError as error:
        return by_rule(run.calls), f"{error.what} A recipe has to name the stages."


def _last_map(run: DryRun, classifier: Call | None, logits: Tensor) -> tuple[Call, bool] | None:
    try:
        return last_map(run, classifier, logits)
    except UsageError:
        return None


def _tapped(choice: Choice, last: tuple[Call, bool] | None, classifier: Call | None) -> dict[Call, str]:
    """What is taken at each call."""
    parts = [(call, f"stage {number}") for number, call in enumerate(choice.stages, 1)]
    if last:
        parts.append((last[0], "last map (given)" if last[1] else "last map"))
    if classifier:
        parts.append((classifier, "pooled (given)"))
    return {call: ", ".join(part for other, part in parts if other == call) for call, _ in parts}


def _row(run: DryRun, call: Call, tap: str | None, why: str | None) -> dict[str, Any]:
    map = call.gives
    return {
        "path": call.path,
        "call": call.index + 1,
        "kind": call.kind,
        "block": call.block,
        "map": [map.channels, map.height, map.width] if map else None,
        "reduction": round(run.height / map.height, 2) if map else None,
        "tap": tap,
        "why": why,
    }
