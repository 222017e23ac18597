"""All that decides how a training goes on, as a checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kdcompress.training.cache import TeacherCache
from kdcompress.training.losses import Losses
from kdcompress.training.result import TrainResult
from kdcompress.training.setup import Setup


@dataclass(frozen=True)
class State:
    """The parts of a training that change from step to step; batches and views are functions of the step."""

    setup: Setup
    losses: Losses
    result: TrainResult
    caches: list[TeacherCache]

    def after(self, steps: int) -> dict[str, Any]:
        """Plain values and tensors, some of them the training's own: to be saved before the next step."""
        accelerator, average = self.setup.accelerator, self.setup.average
        return {
            "step": steps,
            "counted": self.losses.counted,
            "sums": self.losses.sums,
            "teacher_passes": self.setup.distillation.teacher_passes,
            "caches": [(cache.hits, cache.misses) for cache in self.caches],
            "module": self.setup.distillation.state_dict(),
            "optimizer": self.setup.optimizer.state_dict(),
            "ema": average.state if average else None,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            **random_state(accelerator.device),
            "result": self.result.kept(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """The training goes on as it would have after ``saved["step"]`` steps."""
        accelerator, average = self.setup.accelerator, self.setup.average
        self.losses.counted, self.losses.sums = saved["counted"], saved["sums"]
        self.setup.distillation.teacher_passes = saved["teacher_passes"]
        for cache, counts in zip(self.caches, saved.get("caches", ())):
            cache.hits, cache.misses = counts
        self.setup.distillation.load_state_dict(saved["module"])
        self.setup.optimizer.load_state_dict(saved["optimizer"])
        if average:
            average.state = {k: v.to(accelerator.device) for k, v in saved["ema"].items()}
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(saved["scaler"])
        self.result.restore(saved["result"])
        set_random_state(saved, accelerator.device)


def random_state(device: torch.device) -> dict[str, Any]:
    """Of torch's generators, the host's and the device's: dropout and the like draw from them."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}


def set_random_state(saved: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(saved["rng"])
    if device.type == "cuda" and saved["cuda_rng"] is not None:  # None: until now it was trained on a CPU
        torch.cuda.set_rng_state(saved["cuda_rng"], device)
