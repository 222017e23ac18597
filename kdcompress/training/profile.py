"""Where the time of a training goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from kdcompress.artifact import sha256
from kdcompress.ours import Ours
from kdcompress.training.distillation import Distillation

FILES = ("profile.json", "profile.md", "trace.json")
TRACED = 5  # steps in the trace
SETTLED = 20  # steps before them, where the training has as many
OPERATORS = 15  # in the table
OTHER, TRACING = "other", "tracing"
STEP = ("forward", "teacher", "student", "losses", "backward", "optimizer", "device")
MEANING = {
    "data": "drawing, fetching and augmenting batches",
    "forward": "of teachers and student, and the losses",
    "teacher": "forward of the teachers",
    "student": "forward of the student and its peers",
    "losses": "losses, auxiliary modules, stored outputs",
    "backward": "gradients of all that is trained",
    "optimizer": "schedule, update, moving average",
    "device": "waiting for the device when the losses are looked at",
    "evaluation": "the score on the validation images, and copies of the weights",
    "checkpoints": "writing them",
    "logging": "progress",
    OTHER: "all else in the loop",
}


class Clock:
    """Charges each moment to the innermost open section, in ``seconds`` by name: their sum is the time that passed.

    The device is not waited for, so that on a GPU these are the host's seconds. A ``Profiler`` waits.
    """

    def __init__(self, seconds: dict[str, float]):
        self.seconds = seconds
        self.open: list[str] = []
        self.since = perf_counter()

    def charge(self) -> None:
        now = perf_counter()
        name = self.open[-1] if self.open else OTHER
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now

    def total(self) -> float:
        """Seconds until now, those of a training before its interruption among them."""
        self.charge()
        return sum(self.seconds.values())

    def enter(self, name: str) -> None:
        self.charge()
        self.open.append(name)

    def leave(self) -> None:
        self.charge()
        self.open.pop()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    def at(self, step: int) -> None:
        """Told before each step of this process, counted from 0."""

    def close(self) -> None:
        """Told when the training has ended, or stopped."""


class Profiler(Clock):
    """Tells the teachers' forward, the student's and the losses apart, waits for the device wherever a section begins
    or ends, and traces a few steps, which it does not wait in and does not count.

    ``folder`` gets trace.json (for chrome://tracing or ui.perfetto.dev) and, by ``write``, profile.json and profile.md.
    """

    def __init__(
        self, seconds: dict[str, float], folder: Path, distillation: Distillation, device: torch.device, steps: int
    ):
        super().__init__(seconds)
        self.folder, self.device = folder, device
        self.traced = min(TRACED, steps // 2)
        self.first = min(SETTLED, steps - self.traced)
        self.tracer: torch.profiler.profile | None = None
        self.ranges: list[torch.profiler.record_function] = []
        self.operators = ""
        members = [(m, "teacher") for m in distillation.teachers]
        members += [(m, "student") for m in (distillation.student, *distillation._peers())]
        self.hooks = [m.register_forward_pre_hook(lambda *_, name=name: self._begins(name)) for m, name in members]
        self.hooks += [m.register_forward_hook(lambda *_: self._ends()) for m, _ in members]

    def _begins(self, name: str) -> None:
        if self.open[-1:] == ["losses"]:  # not when it is evaluated
            self.enter(name)

    def _ends(self) -> None:
        if self.open[-2:-1] == ["losses"]:
            self.leave()

    def charge(self) -> None:
        if self.tracer is None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return super().charge()
        self.seconds[TRACING] = self.seconds.get(TRACING, 0.0) + perf_counter() - self.since
        self.since = perf_counter()

    def enter(self, name: str) -> None:
        super().enter("losses" if name == "forward" else name)
        if self.tracer:
            self.ranges.append(torch.profiler.record_function(self.open[-1]))
            self.ranges[-1].__enter__()

    def leave(self) -> None:
        if self.ranges:
            self.ranges.pop().__exit__(None, None, None)
        super().leave()

    def at(self, step: int) -> None:
        if step == self.first and self.traced:
            self.charge()
            used = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                used.append(torch.profiler.ProfilerActivity.CUDA)
            self.tracer = torch.profiler.profile(activities=used)
            self.tracer.start()
        elif step == self.first + self.traced:
            self._end_trace()

    def _end_trace(self) -> None:
        if self.tracer is None:
            return
        self.tracer.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.folder / ".partial-trace.json"
        self.tracer.export_chrome_trace(str(made))
        Ours(self.folder).expect({"trace.json": sha256(made)})
        os.replace(made, self.folder / "trace.json")
        on = "cuda" if self.device.type == "cuda" else "cpu"
        self.operators = self.tracer.key_averages().table(sort_by=f"self_{on}_time_total", row_limit=OPERATORS)
        self.charge()
        self.tracer = None

    def close(self) -> None:
        self._end_trace()
        for hook in self.hooks:
            hook.remove()

    def write(self, title: str, images: int) -> str:
        """Writes profile.json and profile.md; returns the table."""
        rows = shares(self.seconds)
        document = {
            "training": title,
            "device": str(self.device),
            "images": images,
            "sections": rows,
            "outside_step_percent": outside_step_percent(self.seconds),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        Ours(self.folder).write("profile.json", json.dumps(document, indent=1))
        shown = table(self.seconds)
        operators = f"\nOperators in the {self.traced} steps of the trace:\n\n```\n{self.operators}\n```\n"
        Ours(self.folder).write("profile.md", f"# Time of the training: {title}\n\n{shown}{operators}")
        return shown


def shares(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each section that was timed: seconds, per cent of the training and whether it belongs to the step."""
    total = sum(s for name, s in seconds.items() if name != TRACING)
    return [
        {
            "section": name,
            "seconds": round(seconds[name], 4),
            "percent": round(100 * seconds[name] / total, 2),
            "in_step": name in STEP,
            "meaning": meaning,
        }
        for name, meaning in MEANING.items()
        if name in seconds
    ]


def outside_step_percent(seconds: dict[str, float]) -> float:
    """Per cent of the training's time that no forward, backward or update took."""
    counted = {name: s for name, s in seconds.items() if name != TRACING}
    outside = sum(s for name, s in counted.items() if name not in STEP)
    return round(100 * outside / max(sum(counted.values()), 1e-9), 2)


def table(seconds: dict[str, float]) -> str:
    lines = ["| section | seconds | % | |", "|---|---:|---:|---|"]
    lines += [f"| {r['section']} | {r['seconds']:.2f} | {r['percent']:.1f} | {r['meaning']} |" for r in shares(seconds)]
    return "\n".join(lines) + f"\n\nOutside the step: {outside_step_percent(seconds):.1f} % of the training.\n"
