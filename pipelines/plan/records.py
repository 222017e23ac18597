"""What is known of a candidate, each record made once: counted, built, and in the end judged.

Figures by target are under its name; latencies in ms, with the ends of a 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdcompress.artifact import Artifact
from kdcompress.pipelines.parts import named
from kdcompress.pipelines.runs import Done
from kdcompress.recipe import Student
from kdcompress.report.figures import count

PARENT = "fp32"  # of a candidate: the file that those for the targets are made from


@dataclass(frozen=True)
class Counted:
    student: Student
    macs: int = 0
    parameters: int = 0
    weights: int = 0  # of convolutions and matrix products: what stays when batch normalisation is folded
    activations: int = 0  # values in and out of the layer that has most
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes of weights and largest layer
    out: str | None = None  # why it is no candidate

    @property
    def name(self) -> str:
        return named(self.student)

    def row(self) -> dict[str, str]:
        """For a table of what is to be built."""
        counts = {"macs": count(self.macs), "parameters": count(self.parameters)}
        return {"candidate": self.name, "state": self.out or "to be built", **counts}


@dataclass(frozen=True)
class Built:
    artifacts: Mapping[str, Artifact]
    memory: Mapping[str, int]  # bytes of the file and the largest layer
    done: Done

    @property
    def bytes(self) -> dict[str, int]:
        return {name: artifact.bytes for name, artifact in self.artifacts.items() if name != PARENT}


@dataclass(frozen=True)
class Latency:
    ms: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    counted: Counted
    built: Built | None = None
    latency: Mapping[str, Latency] = field(default_factory=dict)
    out: str | None = None  # why it is no candidate any more
    missed: tuple[str, ...] = ()  # budgets, each with by how much
    front: bool = False  # no other does as much as fast

    @property
    def name(self) -> str:
        return self.counted.name

    @property
    def student(self) -> Student:
        return self.counted.student

    @property
    def macs(self) -> int:
        return self.counted.macs

    @property
    def bytes(self) -> dict[str, int]:
        return self.built.bytes if self.built else {}

    @property
    def inside(self) -> bool:
        return self.out is None and not self.missed

    def to_json(self) -> dict[str, Any]:
        counted = self.counted
        return {
            "name": self.name,
            "student": self.student.model_dump(mode="json", exclude_defaults=True),
            **{key: getattr(counted, key) for key in ("macs", "parameters", "weights", "activations")},
            "out": self.out,
            "missed": list(self.missed),
            "bytes": self.bytes,
            "memory": dict(self.built.memory if self.built else counted.memory),
            "latency": {target: vars(latency) for target, latency in self.latency.items()},
            "front": self.front,
            "seconds": self.built.done.seconds if self.built else 0.0,
            "inside": self.inside,
        }


def ranked(candidates: Iterable[Judged]) -> list[Judged]:
    """Those inside the budgets, most capacity first."""
    return sorted((each for each in candidates if each.inside), key=lambda each: (-each.macs, -each.counted.parameters))
