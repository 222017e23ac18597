"""Private Aggregation of Teacher Ensembles. Papernot, Abadi, Erlingsson, Goodfellow and Talwar, ICLR 2017,
arXiv:1610.05755; with the Gaussian NoisyMax aggregator (GNMax) of Papernot, Song, Mironov, Raghunathan, Talwar and
Erlingsson, ICLR 2018, arXiv:1802.08908.

Each teacher is trained on a part of the private images of its own, so that one image, more or less, moves one vote: two
counts by one each, an L2 distance of sqrt(2). The epsilon is the data-independent one: it holds whatever the votes were
and may itself be published. Not here: the data-dependent analysis (smaller, but itself private), the confident
aggregator (which pays only with that analysis), and semi-supervised learning from images without an answer. Private for
the training as a whole only where the rest of it is, too: ``docs/private.md``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.distributed import launched
from kdcompress.errors import UsageError
from kdcompress.methods import methods, privacy
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.models.taps import Taps, TapShapes

SENSITIVITY = math.sqrt(2)


def votes(teachers: Tensor) -> Tensor:
    """How many of M teachers, logits [M, N, K], choose each class, float32 [N, K]; each has one vote an image."""
    chosen = teachers.argmax(-1, keepdim=True)
    return torch.zeros_like(teachers, dtype=torch.float32).scatter_(2, chosen, 1.0).sum(0)


def answers_loss(student: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the student's logits [N, K] with the answers int64 [N], averaged over the images that have one
    (-1: none; 0 where no image has); a float32 scalar."""
    answered = answers >= 0
    losses = F.cross_entropy(student.float(), answers.clamp(min=0), reduction="none")
    return (losses * answered).sum() / answered.sum().clamp(min=1)


@methods.register("pate")
class PATE(Method):
    """The student learns, on public images, the noisy majority vote of teachers that each saw a part of the private
    ones."""

    class Options(MethodOptions):
        task_weight: float = Field(
            0.0, ge=0, le=0, description="Always 0: the student sees no label, only the teachers' answers."
        )
        weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the teachers' answers.")
        sigma: float = Field(
            40.0,
            gt=0,
            description="Standard deviation of the noise on the votes, in votes. More noise: more privacy, "
            "more wrong answers. The paper uses 40 with 250 teachers.",
        )
        queries: int | None = Field(
            None, ge=1, description="Images that the teachers answer, at most. Each answer costs privacy. null: all."
        )
        delta: float = Field(
            1e-5,
            gt=0,
            lt=1,
            description="The delta of the promise of privacy, (epsilon, delta). It should be well below 1 / "
            "number of private images.",
        )
        noise_seed: int | None = Field(
            None,
            ge=0,
            description="For tests only. Whoever knows the seed can draw the noise again, so nothing is private.",
        )

    paper = "arXiv:1802.08908"
    needs = Needs(teacher="logits", several=True, index=True, one_label=True, truth=True)
    private = True
    noise: Tensor
    answers: Tensor
    asked: Tensor

    def build(self, student: TapShapes, teacher: list[TapShapes]) -> None:
        o, shape = self.options, (self.images, student.classes)
        if not self.images:
            hint = "give images=, the number of training images"
            raise UsageError("pate remembers every answer and does not know how many images there are.", hint=hint)
        if len(teacher) < 2:
            raise UsageError("pate needs the votes of several teachers.", got=1, hint="teacher.ensemble: 10")
        if launched() > 1:
            raise UsageError(
                "pate trains in one process only: with several, the questions to the teachers would not all be counted."
            )
        seeded = None if o.noise_seed is None else torch.Generator().manual_seed(o.noise_seed)
        noise = torch.randn(shape, generator=seeded) if seeded else privacy.secret_noise(*shape)
        self.register_buffer("noise", o.sigma * noise, persistent=False)  # a file with it would give the votes away
        self.register_buffer("answers", torch.full((self.images,), -1))  # in the checkpoint: asked once, ever
        self.register_buffer("asked", torch.zeros((), dtype=torch.int64))
        self.limit = min(o.queries or self.images, self.images)
        self.note = f"pate: at most {self.limit:,} answers of {len(teacher)} teachers, {self.promise(self.limit)}"

    def terms(self, batch: Batch, student: Taps, teacher: list[Taps], progress: float) -> dict[str, Tensor]:
        assert batch.index is not None  # needs.index
        n = len(batch.y)
        answers = self.answer(batch.index, votes(torch.stack([taps.logits[:n].detach() for taps in teacher])))
        return {"pate": self.options.weight * answers_loss(student.logits[:n], answers)}

    @torch.no_grad()
    def answer(self, index: Tensor, votes: Tensor) -> Tensor:
        """The answers to these images, int64 [N]: remembered, or given now, or -1 once there were enough of them."""
        new = self.answers[index] < 0
        new &= self.asked + new.cumsum(0) <= self.limit
        drawn = (votes + self.noise[index]).argmax(1)
        self.answers[index] = torch.where(new, drawn, self.answers[index])
        self.asked += new.sum()
        return self.answers[index]

    def epsilon(self, answers: int) -> float | None:
        """None: nothing is private."""
        o = self.options
        return None if o.noise_seed is not None else privacy.epsilon(answers, SENSITIVITY, o.sigma, o.delta)

    def promise(self, answers: int) -> str:
        spent = self.epsilon(answers)
        if spent is None:
            return "not private: noise_seed is set"
        return f"epsilon {math.ceil(100 * spent) / 100:.2f} at delta {self.options.delta:g} (data-independent)"

    def report(self) -> dict[str, Any]:
        asked = int(self.asked)
        facts = {"queries": asked, "epsilon": self.epsilon(asked), "delta": self.options.delta}
        return {**facts, "privacy": f"{asked:,} answers, {self.promise(asked)}"}
