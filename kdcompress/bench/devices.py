"""Where artefacts are measured: in this process, in a browser, on another machine.

A device is a function ``bench(request, address, progress) -> Session``, filed under its name. ``--device NAME`` or
``--device NAME:ADDRESS`` chooses it; a new one is a module ``kdcompress/bench/on_NAME.py``, imported when
devices are first asked for (what else it needs, in a package of its own):

    @devices.register("browser")
    def bench(request: Request, address: str, progress: Progress) -> Session: ...

It refuses what it cannot do (a format, a scenario, an address) before anything long starts: UsageError, or
RuntimeMissingError where something is not installed or cannot be reached. It leaves nothing running and nothing
behind, also when it is interrupted. An artefact that fails is a record with ``failed``, and the others go on.

One that a plan or a run can use unattended also has a probe, ``probe(address, formats, open)``, under the same name:

    {"architecture": "aarch64", "instructions": ["asimddp", ...], "missing": {format: {"got": ..., "hint": ...}}, ...}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.bench import cold
from kdcompress.bench.machine import machine
from kdcompress.bench.record import Interrupted, Record
from kdcompress.bench.timing import Progress, Subject, measure
from kdcompress.errors import UsageError
from kdcompress.registry import Registry
from kdcompress.runner import Runner


@dataclass(frozen=True)
class Request:
    """What is to be measured. ``open(artifact, threads=n)`` gives a runner on this machine, not yet entered (core
    knows no runtime: it is handed in)."""

    artifacts: Mapping[str, Artifact]  # by the label that is shown, in the order shown
    images: np.ndarray  # uint8 [N, H, W, C]
    open: Callable[..., Runner]
    threads: int = 1
    effort: str = "quick"  # a key of timing.EFFORTS
    scenario: str = "single-stream"  # a key of timing.SCENARIOS
    seed: int = 0
    baseline: str | None = None  # a label; the others get their ratio to it
    cpus: Callable[[Artifact], tuple[str, ...]] = lambda artifact: ()  # that it was made for; none: any
    optional: Collection[str] = ()  # labels that another machine leaves out, with a note, where it cannot run them


@dataclass
class Session:
    """What was measured, where. Records are by label; make them with ``record.summarise`` and
    ``record.add_ratios``, so that they hold the same numbers whatever the device."""

    device: str  # "local", "browser:chromium 131", ...: what it turned out to be
    records: dict[str, Record]
    before: dict[str, Any]  # the machine that measured, as bench.machine.machine() has it, as far as it is known there
    after: dict[str, Any]
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)  # Parity.to_json(): its outputs against local ones
    notes: list[str] = field(default_factory=list)  # sentences for the reader
    left_out: dict[str, str] = field(default_factory=dict)  # why, of optional artefacts that cannot be measured there
    interrupted: bool = False  # by Ctrl-C: the records hold what was measured until then


class Device(Protocol):
    def __call__(self, request: Request, address: str, progress: Progress) -> Session: ...


class Probe(Protocol):
    def __call__(self, address: str, formats: Sequence[str], open: Callable[..., Runner]) -> dict[str, Any]: ...


devices: Registry[Device] = Registry("device", "kdcompress.bench", prefix="on_")
probes: Registry[Probe] = Registry("device", "kdcompress.bench", prefix="on_")
LOCAL = "local"


def parse_device(text: str) -> tuple[Device, str]:
    """The device and its address ("" where none is given) of "ssh:user@host". Raises UsageError for an unknown one."""
    name, _, address = text.partition(":")
    return devices[name], address


def only(request: Request, device: str, *, formats: Sequence[str] = (), scenarios: Sequence[str] = ()) -> None:
    """Raise UsageError where the request has a format or a scenario that the device does not take."""
    if scenarios and request.scenario not in scenarios:
        raise UsageError(
            f"The device {device} does not measure this scenario.", got=request.scenario, allowed=", ".join(scenarios)
        )
    for artifact in request.artifacts.values():
        if formats and artifact.format not in formats:
            raise UsageError(
                f"The device {device} does not run this format.",
                where=artifact.path,
                got=artifact.format,
                allowed=", ".join(formats),
            )


@devices.register(LOCAL)
def local(request: Request, address: str, progress: Progress) -> Session:
    """This process."""
    if address:
        raise UsageError("The device `local` takes no address.", where="--device", got=f"local:{address}")
    subjects = [Subject(n, request.open(a, threads=request.threads), a.input) for n, a in request.artifacts.items()]
    common: dict[str, Any] = {key: getattr(request, key) for key in ("effort", "seed", "baseline")}
    common["progress"] = progress
    before, interrupted = machine(), False
    try:
        if request.scenario == "cold-start":
            records = cold.measure(request.artifacts, request.images, request.open, request.threads, **common)
        else:
            records = measure(subjects, request.images, scenario=request.scenario, **common)
    except Interrupted as stop:
        records, interrupted = stop.records, True
    return Session(LOCAL, records, before, machine(), interrupted=interrupted)


def add_memory(session: Session, request: Request) -> None:
    """Replaces the memory that records have from one process by that of a process of each artefact's own."""
    if request.scenario == "cold-start":  # which has it
        return
    for record in session.records.values():
        record.load_rss_mib = record.peak_rss_mib = None
    try:
        for label, record in session.records.items():
            if not (record.failed or session.interrupted):
                found = cold.memory(
                    request.artifacts[label], request.images, request.open, request.threads, record.batch
                )
                record.load_rss_mib, record.peak_rss_mib = found
    except KeyboardInterrupt:
        session.interrupted = True
