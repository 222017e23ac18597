"""Latency of what is made here, on the device that a recipe names (``bench.device``): this machine, or another one.

A plan and a run ask for it unattended, so that a device has to have a probe (``bench.devices.probes``): a browser,
which somebody opens, has none, and an emulated processor has no latency.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.bench.devices import LOCAL, Request, Session, parse_device, probes
from kdcompress.bench.machine import machine
from kdcompress.console import say
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import formats
from kdcompress.models.opaque import Fitted
from kdcompress.recipe import Bench


def time_files(
    artifacts: Mapping[str, Artifact],
    images: np.ndarray,
    bench: Bench,
    baseline: str | None = None,
    needed: Collection[str] = (),
) -> Session:
    """Latency of each, timed in turns, on uint8 images [N, H, W, C]; ratios are to ``baseline``. Of files that another
    machine cannot run, those in ``needed`` raise, and the others are in the session's ``left_out``.

    Raises KeyboardInterrupt for Ctrl-C: half a measurement is none.
    """
    device, address = parse_device(bench.device)
    optional = set(artifacts) - {baseline, *needed}
    request = Request(
        artifacts, images, formats.open_runner, bench.threads, bench.effort, baseline=baseline,
        cpus=formats.cpus_of, optional=optional,
    )  # fmt: skip
    where = "" if bench.device == LOCAL else f" on {bench.device.partition('?')[0]}"
    say(f"timing {len(artifacts)} files in turns{where}", style="dim")
    session = device(request, address, lambda share, what: None)
    if session.interrupted:
        raise KeyboardInterrupt
    return session


def fitted(artifact: Artifact, shape: tuple[int, ...]) -> Artifact:
    """One that takes images [H, W, C] of this shape: a teacher's file may be made for others, which they become before
    they are timed."""
    spec = artifact.input
    return (
        artifact if shape == (spec.height, spec.width, spec.channels) else replace(artifact, input=Fitted(**vars(spec)))
    )


def conditions(bench: Bench) -> dict[str, Any]:
    """What else a latency depends on, for a step's key: how it is measured, and by which processor, where known."""
    return {**bench.model_dump(), "cpu": machine().get("cpu") if bench.device == LOCAL else None}


def untimed(device: str, targets: Sequence[formats.Target]) -> dict[str, KDCompressError]:
    """By the target's name, why its latency cannot be measured on the device. Raises UsageError for a device that a
    plan or a run cannot use, RuntimeMissingError for one that cannot be reached."""
    facts = probed(device, tuple(sorted({target.format for target in targets})))
    found: dict[str, KDCompressError] = {}
    for target in targets:
        try:
            _check(target, device, facts)
        except KDCompressError as error:
            found[target.name] = error
    return found


def timed(device: str, targets: Sequence[formats.Target]) -> list[formats.Target]:
    """Those of the targets whose latency can be measured on the device."""
    without = untimed(device, targets)
    return [target for target in targets if target.name not in without]


@cache  # a search checks each of its candidates
def probed(device: str, of_formats: tuple[str, ...]) -> dict[str, Any] | None:
    """What the device is and by format what keeps it from being run there; None of this machine."""
    if device == LOCAL:
        return None
    name, _, address = device.partition(":")
    if name not in probes:
        parse_device(device)  # which names the unknown one
        raise UsageError(
            "A plan or a run cannot measure on this device: it needs a person, or it has no latency of its own.",
            where="bench.device",
            got=device,
            allowed=", ".join([LOCAL, *(f"{name}:ADDRESS" for name in probes)]),
            hint=f"`kdcompress bench RUN_FOLDER --device {device}` measures there what a run has made",
        )
    return probes[name](address, of_formats, formats.open_runner)


def _check(target: formats.Target, device: str, facts: dict[str, Any] | None) -> None:
    if facts is None:
        formats.runners[target.runtime].check()
        suits = target.timed_here
    else:
        if missing := facts["missing"].get(target.format):
            raise RuntimeMissingError(f"{device} cannot run {target.format} files.", where=target.name, **missing)
        suits = target.suits(facts["architecture"], set(facts["instructions"]))
    if not suits:
        raise RuntimeMissingError(
            f"The latency of {target.name} cannot be measured on "
            f"{'this machine' if device == LOCAL else device}: it is made for another processor.",
            where=f"target {target.name}",
            got=None if facts is None else facts["architecture"],
            allowed=target.measured_on,
            hint="name such a machine (--device, or bench.device in the recipe), or do this on one",
        )
