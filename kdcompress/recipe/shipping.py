"""What is built from the student, how it is measured, and what it must reach."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.networks import Methods, Student
from kdcompress.recipe.section import Name, Names, PerCent, Section
from kdcompress.recipe.training import Train
from kdcompress.recipe.units import milliseconds, size_in_bytes


class Export(Section):
    layout: Literal["uint8-nhwc", "float-nchw"] = Field(
        "uint8-nhwc", description="of the file's input: pixels of 0..255 by row, or of 0..1 by channel"
    )
    batch: int | None = Field(None, ge=1, le=65_536, description="fixed batch size; none: dynamic")
    opset: int = Field(20, ge=18, le=23, description="version of ONNX's operators")
    targets: Names = Field(
        (), description="see `kdcompress list targets`; auto: all that this machine runs; fp32 ONNX is always built"
    )
    calibration_images: int = Field(512, ge=16, le=1_000_000, description="training images that give int8 its ranges")
    max_drop: float = Field(
        0.5, ge=0, le=100, description="points of its score an artefact may lose to its fp32 parent"
    )
    qat: Train | None = Field(
        Train(epochs=2, lr=0.01),
        description="int8, when all else loses more: the student learns to be quantised, from the teacher; null: never",
    )


class Bench(Section):
    effort: Literal["rapid", "quick", "normal"] = Field(
        "quick", description="how long each file is timed: at least 6, 10 or 60 seconds"
    )
    threads: int = Field(1, ge=1, le=1024, description="that a file's runtime may use")
    device: Name = Field("local", description="local, ssh:user@host or adb:SERIAL: where files are timed")


class Compare(Section):
    """What `kdcompress compare` trains; a run takes no notice of it."""

    methods: dict[str, Methods] = Field({}, description="label -> method, written as in `method`")
    seeds: int = Field(3, ge=1, le=1000, description="trainings of each method")
    published: dict[str, PerCent] = Field({}, description="a method's label -> its score in the literature, per cent")


class Gates(Section):
    """Limits; a run that does not meet one ends with exit code 1 after its report is written."""

    teacher: PerCent | None = Field(None, description="the task's figure of its fp32 file, at least")
    student: PerCent | None = Field(None, description="the same; also written teacher_accuracy and student_accuracy")
    student_parameters: int | None = Field(None, ge=0, description="at most")
    latency_ms: float | None = Field(None, gt=0, description="median of the fastest measured artefact, at most")

    @model_validator(mode="before")
    @classmethod
    def former_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        named = dict(data)
        for role in ("teacher", "student"):
            if (former := f"{role}_accuracy") in named:
                if role in named:
                    raise ValueError(f"`{role}` and `{former}` are one gate: leave one out")
                named[role] = named.pop(former)
        return named


def _checked(parse: Any) -> BeforeValidator:
    """Keeps the text as it was written, once it can be parsed."""
    return BeforeValidator(lambda value: (parse(value), str(value).strip())[1])


Time = Annotated[str, _checked(milliseconds)]
Size = Annotated[str, _checked(size_in_bytes)]


class Candidate(Section):
    """A student as `kdcompress plan` measured it, untrained; figures by target."""

    student: Student = Field(description="the network")
    macs: int = Field(ge=0, description="multiply-accumulates of one image")
    parameters: int = Field(ge=0, description="weights and biases of the network")
    latency_ms: dict[str, float] = Field({}, description="target -> median of one query")
    bytes: dict[str, int] = Field({}, description="target -> size of the file")


class Budgets(Section):
    """Limits on the artefact of each target, held as gates; `kdcompress plan` proposes the student that fits them."""

    target: Names = Field((), description="whose artefacts they hold for; none: all of export.targets")
    latency: Time | None = Field(None, description="median of one query, at most: 500us, 2ms")
    size: Size | None = Field(None, description="of the file, at most: 500kB, 1.5MB")
    memory: Size | None = Field(
        None, description="file and the largest layer's input and output, at most: what any runtime has to hold"
    )
    drop: float | None = Field(None, ge=0, le=100, description="points of the score lost to the teacher, at most")
    candidates: tuple[Candidate, ...] = Field(
        (), max_length=1000, description="what a plan found inside them, most capacity first"
    )

    @property
    def latency_ms(self) -> float | None:
        return None if self.latency is None else milliseconds(self.latency)

    @property
    def size_bytes(self) -> int | None:
        return None if self.size is None else size_in_bytes(self.size)

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else size_in_bytes(self.memory)

    def planned(self, student: Student) -> Candidate | None:
        """What the plan found of this student, where it looked at it."""
        return next((found for found in self.candidates if found.student == student), None)


class Search(Section):
    """A tournament of the budgets' candidates before the training: short ones of all, longer ones of those that are
    left, and the winner is trained in full."""

    candidates: int = Field(
        0, ge=0, le=1000, description="how many take part, most capacity first; 0: none, no tournament"
    )
    reduction: int = Field(3, ge=2, le=16, description="of a round: 1/3 goes on, and is trained 3 times as long")
