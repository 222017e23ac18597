"""What a distillation method declares and computes. The engine knows nothing else about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from kdcompress.data.batch import Batch, Pairing
from kdcompress.errors import UsageError
from kdcompress.models.taps import Tapped, Taps, TapShapes
from kdcompress.recipe import listed, shown

Family = Literal["baseline", "response", "feature", "relation", "online", "self"]
LARGEST = 1e9  # of any number in a method's options
TAPS = {"logits", "answer", "pooled", "last", "stages", "stages(pre)"}


class MethodOptions(BaseModel):
    """Options of every method; a method's own ``Options`` adds to them. Times are shares of the training."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the task's own loss. For a classifier this is the cross-entropy with the labels.",
    )
    since: float = Field(
        0.0, ge=0, le=1, description="The method acts from this share of the training on. 0: from the start."
    )
    until: float = Field(
        1.0, ge=0, le=1, description="The method acts up to this share of the training. 1: to the end."
    )
    warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training, from `since` on, in which the method's weight rises from 0. "
        "0: it does not rise.",
    )

    @field_validator("*")
    @classmethod
    def of_sensible_size(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and abs(value) > LARGEST:
            raise ValueError(f"the number must be at most {LARGEST:g}")
        return value

    @model_validator(mode="after")
    def begins_before_it_ends(self) -> MethodOptions:
        if self.since >= self.until:
            raise ValueError(
                f"`since` ({self.since:g}) must be smaller than `until` ({self.until:g}), else nothing is taught"
            )
        return self

    def strength(self, progress: float) -> float:
        """The factor of the method's terms when ``progress`` of the training is done."""
        if not self.since <= progress <= self.until:
            return 0.0
        return min(1.0, (progress - self.since) / self.warmup) if self.warmup else 1.0

    def task_strength(self, progress: float) -> float:
        """The weight of the task's own loss when ``progress`` of the training is done."""
        return self.task_weight


class LogitOptions(MethodOptions):
    """Options of the methods on logits."""

    standardize: bool = Field(
        False,
        description="Standardise the logits of both sides first: each image's get mean 0 and standard "
        "deviation 1 (Sun et al., CVPR 2024, arXiv:2403.01427).",
    )


@dataclass(frozen=True)
class Needs:
    """What a method reads of each member, joined by ``+``: ``logits``, ``answer`` (all that a network with a dense
    answer says), ``pooled`` (the classifier's input, [N, D]), ``last`` (the map that is pooled, [N, C, H, W]),
    ``stages`` (the map at the end of each resolution) or ``stages(pre)`` (the same before its activation). An empty
    teacher means that none runs, empty peers that there are none (``least_peers``: how many there must be);
    ``several`` that the method learns from a list of teachers.

    ``rows`` pairs the rows of a batch: see ``Batch``. ``index``: the images' places in the training split.
    ``whole_batch``: some term is not a mean over samples (it relates them, counts them or remembers them), so of
    several processes that train together each gets the rows of all. ``one_label``: it takes each image to be of one
    class, or relates classes to each other; others compare logits row by row (``Task.rows``), or none. ``boxes``: it
    looks at boxes, the truth's (``batch.y`` are objects, as in ``data.objects``) or those that networks answer.
    ``class_maps``: it reads the class of each pixel (``batch.y``). ``sides``: it compares the distributions that some
    detectors have of a box's sides. ``truth``: it reads the number of
    each image's class (``batch.y``), which mixed images don't have. ``fewer``: the teacher may know fewer classes than
    the student, whose first ones they are."""

    student: str = "logits"
    teacher: str = ""
    peers: str = ""
    least_peers: int = 1
    several: bool = False
    rows: Pairing = "single"
    index: bool = False
    whole_batch: bool = False
    one_label: bool = False
    boxes: bool = False
    class_maps: bool = False
    sides: bool = False
    truth: bool = False
    fewer: bool = False

    def __post_init__(self) -> None:
        if unknown := (self.of("student") | self.of("teacher") | self.of("peers")) - TAPS:
            raise ValueError(f"unknown needs {sorted(unknown)}; known: {sorted(TAPS)}")

    def of(self, member: Literal["student", "teacher", "peers"]) -> frozenset[str]:
        return frozenset(getattr(self, member).split("+")) - {""}


class Method(nn.Module):
    """A distillation method. Its parameters are trained with the student's and are never in the
    file that ships unless ``deploy`` says so.

    Whom the student learns from is a teacher (``Taps``), a list of them (``needs.several``) or a list of peers
    (``needs.peers``); it is None where the method needs nobody. ``build`` gets their ``TapShapes`` likewise.
    ``self.pairs`` holds the matched (student, teacher) stages where both are needed, ``self.images`` the number of
    training images (0: unknown), ``self.attached`` what ``attach`` returned.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    needs: ClassVar[Needs] = Needs()
    deploy: ClassVar[Literal["drop", "fold", "keep"]] = "drop"
    private: ClassVar[bool] = False  # its promise is one about the whole run, which is held to it
    family: ClassVar[Family] = "response"
    paper: ClassVar[str] = ""
    note: str = ""  # said once, where its training begins; set by ``build``

    def __init__(
        self,
        options: MethodOptions,
        student: TapShapes,
        teacher: TapShapes | list[TapShapes] | None = None,
        pairs: list[tuple[int, int]] | None = None,
        images: int = 0,
        attached: Any = None,
    ):
        super().__init__()
        self.options: Any = options
        self.pairs = pairs or []
        self.images = images
        self.attached = attached
        self.build(student, teacher)

    def build(self, student: TapShapes, teacher: Any) -> None:
        """Make the auxiliary modules."""

    def prepare(self, batch: Batch, progress: float) -> Batch:
        """The batch that the members get. Rows may be added: only the first ``len(batch.y)`` have labels."""
        return batch

    def terms(self, batch: Batch, student: Taps, teacher: Any, progress: float) -> dict[str, Tensor]:
        """The weighted loss terms of a batch, each a scalar averaged over it. ``progress`` runs from 0
        to 1 over the training. With ``needs.whole_batch`` they are those of all processes, whose images
        ``batch.x`` are not at hand."""
        raise NotImplementedError

    def report(self) -> dict[str, Any]:
        """JSON-able facts of the finished training, for its report."""
        return {}

    @classmethod
    def attach(cls, options: Any, student: Tapped, teacher: Tapped | None) -> Any:
        """Look at the networks before anything is built. With ``deploy`` fold or keep: put modules that the student
        trains with into ``student.model``, in place; ``build`` gets the shapes that it has then."""

    @classmethod
    def fold(cls, net: nn.Module) -> None:
        """Take the attached modules out of a trained ``net`` again, in place, with its function unchanged."""

    @classmethod
    def pairing(cls, options: Any) -> Pairing:
        """How the rows of its batches belong together: ``needs.rows``, where no option changes it."""
        return cls.needs.rows

    @classmethod
    def parse_options(cls, name: str, values: dict[str, Any]) -> MethodOptions:
        """Raises UsageError that lists every unknown or invalid option."""
        try:
            return cls.Options.model_validate(values)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, ('method', name, *e['loc'])))}: {e['msg'].removeprefix('Value error, ')} "
                f"(got {shown(e['input'])})"
                for e in error.errors()
            ]
            raise UsageError(
                f"The options of method {name!r} are not valid:\n{listed(problems)}",
                allowed=", ".join(cls.Options.model_fields),
            ) from error


def standardized(logits: Tensor) -> Tensor:
    """Logits [N, K] with mean 0 and standard deviation 1 (unbiased) in each row, float32: logit standardisation,
    equation 12 of arXiv:2403.01427 (the temperature is applied by the loss)."""
    z = logits.float()
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)
