"""Where a tap is put so that it takes what the dry run saw at a call."""

from __future__ import annotations

from torch import nn

from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.hooks import Point, Tap
from kdcompress.models.taps.maps import MapShape
from kdcompress.models.taps.table import Call, times
from kdcompress.models.taps.types import Stage

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
               nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Softplus)  # fmt: skip


def point_at(run: DryRun, call: Call, before: bool = False) -> Point:
    """What the call gives, or (``before``) what it is given."""
    return Point(call.path, call.index, before, run.overwrites(call, before))


def tap_at(run: DryRun, call: Call, before: bool = False) -> Tap:
    """The map there."""
    return _tap(run, point_at(run, call, before), _map(call, before))


def stage_at(run: DryRun, call: Call, before: bool = False) -> Stage:
    """Its place and shape."""
    map = _map(call, before)
    reduction = run.height / map.height
    return Stage(call.path, map.channels, map.height, map.width, reduction, before, times(run.calls, call))


def tap_before_activation(run: DryRun, call: Call) -> Tap | None:
    """The tap of what the activation was given that ended the call, where that is a module and its output was not
    changed since."""
    for other in run.calls[run.calls.index(call) :: -1]:
        if isinstance(run.module(other), ACTIVATIONS) and run.same(other, call):
            return _tap(run, point_at(run, other, before=True), _map(call))
    return None


def _map(call: Call, before: bool = False) -> MapShape:
    map = call.given if before else call.gives
    assert map is not None, call
    return map


def _tap(run: DryRun, where: Point, map: MapShape) -> Tap:
    return Tap(where, map.layout, (map.height / run.height, map.width / run.width))
