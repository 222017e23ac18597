"""What a training gives back: its weights, and the record of how it went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

KEPT = ("history", "best", "last", "best_weights", "last_weights", "sections")  # in a checkpoint


@dataclass
class TrainResult:
    """``best`` and ``last`` hold epoch and validation score in per cent; the weights of both are
    on the CPU. Everything but the weights is in ``record()``."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    selected: str = "best"
    images_seen: int = 0
    teacher_passes: int = 0  # images that a teacher was shown
    teacher_cache: dict[str, Any] = field(default_factory=dict)  # see cache.TeacherCache.record
    seconds: float = 0.0
    sections: dict[str, float] = field(default_factory=dict)  # of the seconds: which part of the loop took them
    outside_step_percent: float = 0.0  # of the seconds: data, evaluation, checkpoints, logging and the rest
    device: str = "cpu"
    precision: str = "fp32"
    compiled: str = "off"  # torch.compile's mode, or why it was not used
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    last_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.best_weights if self.selected == "best" else self.last_weights

    def record(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.endswith("_weights")}

    def validated(self, epoch: float, score: float, weights: dict[str, Tensor]) -> None:
        """These weights are the last now, and the best where none before were better. Few images make many equals: of
        those, the last had the longest training."""
        self.last, self.last_weights = {"epoch": epoch, "score": score}, weights
        if not self.best or score >= self.best["score"]:
            self.best, self.best_weights = dict(self.last), weights

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {name: getattr(self, name) for name in KEPT}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what ``kept`` gave. ``sections`` stays the same dict: a clock counts in it."""
        for name in KEPT:
            if name != "sections":
                setattr(self, name, kept[name])
        self.sections.update(kept["sections"])
