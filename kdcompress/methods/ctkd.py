"""Curriculum Temperature for Knowledge Distillation. Li, Li, Yang, Zhao, Song, Luo, Li and Yang, AAAI 2023,
arXiv:2211.16231: the global temperature."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import reversed_gradient
from kdcompress.methods.fields import label_weight, loss_weight
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


@methods.register("ctkd")
class CTKD(Method):
    """KD with a learnt temperature. It is trained against the student, so the task becomes harder over the first epochs
    (section 3)."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.1, "The reference code uses 0.1.")
        weight: float = loss_weight(0.9, "The reference code uses 0.9.")
        lowest: float = Field(1.0, ge=0.01, le=1000, description="The learnt temperature stays above this.")
        highest: float = Field(
            21.0,
            ge=0.01,
            le=1000,
            description="The learnt temperature stays below this. It starts at 73 % of the way from `lowest` to here.",
        )
        ramp: float = Field(
            1 / 24,
            ge=0,
            le=1,
            description="Share of the training in which the reversed gradient rises to full strength. The "
            "paper uses 10 of 240 epochs.",
        )

    paper = "arXiv:2211.16231"
    needs = Needs(teacher="logits")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.raw = nn.Parameter(torch.ones(()))

    def reversal(self, progress: float) -> float:
        """The strength of the reversal: from 0 to 1 along half a cosine, then 1."""
        done = min(1.0, progress / self.options.ramp) if self.options.ramp else 1.0
        return 0.5 * (1 - math.cos(math.pi * done))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        share = reversed_gradient(self.raw, self.reversal(progress)).sigmoid()
        temperature = o.lowest + (o.highest - o.lowest) * share
        return {"ctkd": o.weight * kd_loss(student.logits, teacher.logits, temperature)}
