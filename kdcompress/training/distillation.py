"""A student, its teacher and a method as one module: ``losses = distillation(x, y)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.methods import methods as registry
from kdcompress.methods.base import Method
from kdcompress.models.deployable import Normalize
from kdcompress.models.taps import Tapped, Taps, pair_stages


class Member(nn.Module):
    """A network in training: its own normalisation of the shared uint8 batch, the network, its taps."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], paths: Sequence[str] = ()):
        super().__init__()
        self.net = net
        self.normalize = Normalize(mean, std)
        self.paths = tuple(paths)

    def tap(self, example: Tensor, needs: frozenset[str]) -> None:
        """Find the taps that ``needs`` names by one dry forward on ``example`` uint8 [N, C, H, W]."""
        stages = any(need.startswith("stages") for need in needs)
        self.tapped = Tapped(
            self.net,
            self.normalize(example),
            self.paths,
            stages=stages,
            pre="stages(pre)" in needs,
            pooled="pooled" in needs,
        )

    def forward(self, x: Tensor) -> Taps:
        return self.tapped(self.normalize(x))


class Distillation(nn.Module):
    """What is trained, as one module: the student and the methods' auxiliary modules are its
    parameters and its state. The teacher is frozen, in eval mode, and part of neither.

    ``example`` is a batch uint8 [N, C, H, W]; ``methods`` maps names to options. Raises UsageError
    for an unknown method or option, a missing teacher, or stages that cannot be paired.
    """

    student: Member
    teacher: Member | None

    def __init__(
        self,
        student: Member,
        teacher: Member | None,
        methods: Mapping[str, dict[str, Any]],
        example: Tensor,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        kinds = {name: registry[name] for name in methods}
        options = {name: kind.parse_options(name, methods[name]) for name, kind in kinds.items()}
        needs = {
            role: frozenset().union(*(kind.needs.of(role) for kind in kinds.values()))
            for role in ("student", "teacher")
        }
        if needs["teacher"] and teacher is None:
            asking = ", ".join(name for name, kind in kinds.items() if kind.needs.of("teacher"))
            raise UsageError(f"{asking} needs a teacher.", hint="add a `teacher` to the recipe, or use method: none")
        self.student = student
        self.label_smoothing = label_smoothing
        student.tap(example, needs["student"])
        # Not a submodule: never trained, never saved, never synchronised.
        self.__dict__["teacher"] = teacher if needs["teacher"] else None
        if self.teacher is not None:
            self.teacher.eval().requires_grad_(False)
            self.teacher.tap(example, needs["teacher"])
        pairs = self._pairs(needs)
        shapes = student.tapped.shapes, self.teacher and self.teacher.tapped.shapes
        self.methods = nn.ModuleDict({name: kind(options[name], *shapes, pairs) for name, kind in kinds.items()})
        self.task_weight = next(iter(options.values())).task_weight  # of the method named first

    def _pairs(self, needs: dict[str, frozenset[str]]) -> list[tuple[int, int]]:
        if not all(any(need.startswith("stages") for need in of) for of in needs.values()):
            return []
        assert self.teacher is not None
        named = bool(self.student.paths and self.teacher.paths)
        return pair_stages(self.student.tapped.shapes, self.teacher.tapped.shapes, in_order=named)

    def _apply(self, fn: Any, recurse: bool = True) -> Distillation:
        if self.teacher is not None:  # .to(device) moves the teacher too
            self.teacher._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor, y: Tensor, progress: float = 1.0) -> dict[str, Tensor]:
        """``x`` uint8 [N, C, H, W], ``y`` int64 [N] -> the weighted terms, float32 scalars; their sum
        is the loss."""
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():  # not inference_mode: its tensors cannot be saved for the backward pass
                teacher = self.teacher(x)
        student = self.student(x)
        task = F.cross_entropy(student.logits.float(), y, label_smoothing=self.label_smoothing)
        terms = {"task": self.task_weight * task}
        for method in self.auxiliary():
            terms |= method.terms(y, student, teacher, progress)
        return terms

    def auxiliary(self) -> list[Method]:
        return [method for method in self.methods.values() if isinstance(method, Method)]
