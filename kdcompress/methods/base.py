"""What a distillation method declares and computes. The engine knows nothing else about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.taps import Taps, TapShapes

NEEDS = {"logits", "pooled", "stages", "stages(pre)"}


class MethodOptions(BaseModel):
    """Options of every method; a method's own ``Options`` adds to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels")


@dataclass(frozen=True)
class Needs:
    """What a method reads of each member, joined by ``+``: ``logits``, ``pooled`` (the classifier's
    input, [N, D]), ``stages`` (the map at the end of each resolution, [N, C, H, W]) or
    ``stages(pre)`` (the same before its activation). An empty teacher means that none runs."""

    student: str = "logits"
    teacher: str = ""

    def __post_init__(self) -> None:
        if unknown := (self.of("student") | self.of("teacher")) - NEEDS:
            raise ValueError(f"unknown needs {sorted(unknown)}; known: {sorted(NEEDS)}")

    def of(self, member: Literal["student", "teacher"]) -> frozenset[str]:
        return frozenset(getattr(self, member).split("+")) - {""}


class Method(nn.Module):
    """A distillation method. Its parameters are trained with the student's and are never in the
    file that ships unless ``deploy`` says so."""

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    needs: ClassVar[Needs] = Needs()
    deploy: ClassVar[Literal["drop", "fold", "keep"]] = "drop"
    family: ClassVar[str] = "offline"
    paper: ClassVar[str] = ""

    def __init__(
        self,
        options: MethodOptions,
        student: TapShapes,
        teacher: TapShapes | None = None,
        pairs: list[tuple[int, int]] | None = None,
    ):
        super().__init__()
        self.options: Any = options
        self.pairs = pairs or []
        self.build(student, teacher)

    def build(self, student: TapShapes, teacher: Any) -> None:
        """Make the auxiliary modules. ``self.pairs`` holds the matched (student, teacher) stages."""

    def terms(self, y: Tensor, student: Taps, teacher: Any, progress: float) -> dict[str, Tensor]:
        """The weighted loss terms of a batch, each a scalar averaged over it. ``y`` int64 [N]; ``teacher``
        Taps, or None where the method needs none;
        ``progress`` runs from 0 to 1 over the training."""
        raise NotImplementedError

    @classmethod
    def parse_options(cls, name: str, values: dict[str, Any]) -> MethodOptions:
        """Raises UsageError that lists every unknown or invalid option."""
        try:
            return cls.Options.model_validate(values)
        except ValidationError as error:
            problems = "\n".join(
                f"  - method.{name}.{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r:.80})"
                for e in error.errors()
            )
            raise UsageError(
                f"The options of method {name!r} are not valid:\n{problems}",
                allowed=", ".join(cls.Options.model_fields),
            ) from error


def ramp(progress: float, share: float) -> float:
    """Linear rise from 0 to 1 over the first ``share`` of the training."""
    return min(1.0, progress / share) if share > 0 else 1.0
