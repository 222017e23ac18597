"""The stages that a timm network declares itself (``forward_intermediates``).

That method is run once under the hooks of a dry run to see which modules the maps come from, so that taking them costs
nothing but hooks on a plain forward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdcompress.errors import UsageError
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.maps import Layout, MapShape, as_map
from kdcompress.models.taps.table import ISOTROPIC_STAGES, Call, Choice, spaced


def declared(run: DryRun) -> Choice | None:
    """The calls that give the maps which the network names as its own; None where it names none.

    Raises UsageError where it names maps that are no module's output.
    """
    other = _intermediates(run)
    if other is None:
        return None
    maps: list[Tensor] = other.result
    if len({tuple(m.shape[2:]) for m in maps}) == 1:
        maps = [maps[index] for index in spaced(len(maps), min(ISOTROPIC_STAGES, len(maps)))]
    stages = [_in_forward(run, other, m) for m in maps if m.shape[2] * m.shape[3] > 1]
    if len(stages) > 1 and not stages[0].block and any(call.block for call in stages):
        stages = stages[1:]  # the first is a stem
    why = dict.fromkeys(stages, "the network declares it")
    return Choice(tuple(stages), "declared", why) if stages else None


def _intermediates(run: DryRun) -> DryRun | None:
    """A dry run of the network's own way to its maps, which are the result; None where it has none."""
    model: Any = run.model
    if not (hasattr(model, "feature_info") and hasattr(model, "forward_intermediates")):
        return None

    def intermediates(x: Tensor) -> list[Tensor]:
        return model.forward_intermediates(x, norm=False, output_fmt="NCHW", intermediates_only=True)

    try:
        return DryRun(model, run.example, intermediates)
    except (TypeError, AssertionError, NotImplementedError):  # the model gives no such maps after all
        return None


def _in_forward(run: DryRun, other: DryRun, wanted: Tensor) -> Call:
    """The call in the plain forward of the module that gave ``wanted`` [N, C, H, W] in the other."""
    there = _producer(other, wanted)
    if there is not None and there in run.calls and _shape(run, there) == _shape(other, there):
        return there
    raise UsageError(
        f"A map {list(wanted.shape[1:])} that the network names as a stage is no module's output.",
        where=type(run.model).__name__,
        hint="name the module paths in the recipe (student.taps, teacher.taps), or use a method on logits",
    )


def _producer(run: DryRun, wanted: Tensor) -> Call | None:
    """The call whose output is ``wanted`` [N, C, H, W]: the last of the shallowest."""
    same = [replace(call, gives=shape) for call in run.calls if (shape := _equal(run, call, wanted))]
    storage = wanted.untyped_storage().data_ptr()
    # with zero-initialised residuals whole blocks are equal by value: the very tensor goes before its equals, and a
    # block before the patches it was given
    same = [call for call in same if _storage(run, call) == storage] or same
    same = [call for call in same if call.block] or same
    depth = min((call.depth for call in same), default=0)
    return next((call for call in reversed(same) if call.depth == depth), None)


def _equal(run: DryRun, call: Call, wanted: Tensor) -> MapShape | None:
    """How the call's output is a map that equals ``wanted``; None where none does."""
    output = run.tensor(call)
    if output is None or run.changed(call) or output.numel() < wanted.numel():
        return None
    channels, height, width = wanted.shape[1:]
    layouts: dict[int, tuple[Layout, ...]] = {4: ("nchw", "nhwc"), 3: ("tokens",)}
    for layout in layouts.get(output.ndim, ()):
        fits = layout != "tokens" or output.shape[1] >= height * width
        if fits and torch.equal(as_map(output, layout, height, width), wanted):
            return MapShape(layout, channels, height, width)
    return None


def _shape(run: DryRun, call: Call) -> torch.Size | None:
    return None if (output := run.tensor(call)) is None else output.shape


def _storage(run: DryRun, call: Call) -> int | None:
    return None if (output := run.tensor(call)) is None else output.untyped_storage().data_ptr()
