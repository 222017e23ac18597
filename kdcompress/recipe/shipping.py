"""What is built from the student, how it is measured, and what it must reach."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.networks import Methods, Student
from kdcompress.recipe.section import Name, Names, PerCent, Section
from kdcompress.recipe.training import Train
from kdcompress.recipe.units import milliseconds, size_in_bytes


class Export(Section):
    """The files that are built from the student."""

    layout: Literal["uint8-nhwc", "float-nchw"] = Field(
        "uint8-nhwc",
        description="Input of the file. uint8-nhwc: pixels of 0..255, channels last. float-nchw: pixels "
        "of 0..1, channels first.",
    )
    batch: int | None = Field(None, ge=1, le=65_536, description="Batch size of the file. null: any (dynamic).")
    opset: int = Field(20, ge=18, le=23, description="Version of the ONNX operator set.")
    outputs: Literal["logits", "classes"] = Field(
        "logits",
        description="For semantic segmentation, what the file gives. logits: those of each place, smaller than the "
        "image; programs enlarge them. classes: the number of each pixel's class.",
    )
    targets: Names = Field(
        (),
        description="What is built, besides the fp32 ONNX file that always is. See `kdcompress list "
        "targets`. auto: all that runs on this machine.",
    )
    calibration_images: int = Field(
        512, ge=16, le=1_000_000, description="Number of training images from which int8 files learn their ranges."
    )
    max_drop: float = Field(
        0.5, ge=0, le=100, description="Points of its score that a file may lose to its fp32 parent."
    )
    qat: Train | None = Field(
        Train(epochs=2, lr=0.01),
        description="Quantisation-aware training, taught by the teacher. It is the last resort for an "
        "int8 file that loses more than `max_drop`. null: never.",
    )


class Bench(Section):
    """How, where and on how many threads files are timed."""

    effort: Literal["rapid", "quick", "normal"] = Field(
        "quick", description="How long each file is timed: at least 6 s (rapid), 10 s (quick) or 60 s (normal)."
    )
    threads: int = Field(1, ge=1, le=1024, description="Number of CPU threads that a file's runtime may use.")
    device: Name = Field("local", description="Where files are timed: local, ssh:user@host or adb:SERIAL.")


class Compare(Section):
    """The methods that `kdcompress compare` trains on one teacher."""

    methods: dict[str, Methods] = Field(
        {}, description="Methods that are compared: label -> method. A method is written as in `method`."
    )
    seeds: int = Field(3, ge=1, le=1000, description="Number of trainings of each method, each with its own seed.")
    published: dict[str, PerCent] = Field(
        {}, description="Scores from the literature, in per cent: label of a method -> score."
    )


class Gates(Section):
    """Limits that a run must keep. A run that misses one writes its report and ends with exit code 1."""

    teacher: PerCent | None = Field(None, description="The teacher's fp32 file must score at least this, in per cent.")
    student: PerCent | None = Field(
        None,
        description="The student's fp32 file must score at least this, in per cent. `teacher_accuracy` "
        "and `student_accuracy` are older names of these two keys.",
    )
    student_parameters: int | None = Field(
        None, ge=0, description="The student must have at most this many parameters."
    )
    latency_ms: float | None = Field(
        None, gt=0, description="The fastest measured file must have at most this median latency, in ms."
    )

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
    """A student as `kdcompress plan` measured it, before any training."""

    student: Student = Field(description="The network.")
    macs: int = Field(ge=0, description="Multiply-accumulates for one image.")
    parameters: int = Field(ge=0, description="Number of weights and biases.")
    latency_ms: dict[str, float] = Field({}, description="Median latency of one query, in ms, by target.")
    bytes: dict[str, int] = Field({}, description="Size of the file, in bytes, by target.")


class Budgets(Section):
    """Limits on the file of each target. A run checks them like gates. `kdcompress plan` finds students that fit."""

    target: Names = Field((), description="Targets whose files must keep the limits. Default: all of `export.targets`.")
    latency: Time | None = Field(None, description="Median latency of one query, at most, with its unit: 500us, 2ms.")
    size: Size | None = Field(None, description="Size of the file, at most, with its unit: 500kB, 1.5MB.")
    memory: Size | None = Field(
        None,
        description="Memory that every runtime needs, at most: the file, and the input and output of the "
        "largest layer.",
    )
    drop: float | None = Field(
        None, ge=0, le=100, description="Points of the score that the file may lose to the teacher."
    )
    candidates: tuple[Candidate, ...] = Field(
        (),
        max_length=1000,
        description="Students that `kdcompress plan` found inside the limits, the one with most capacity first.",
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
    """A tournament of the candidates in ``budgets``. All are trained for a short time, the best for longer, and the
    winner in full."""

    candidates: int = Field(
        0,
        ge=0,
        le=1000,
        description="Number of students that take part, those with most capacity first. 0: no tournament.",
    )
    reduction: int = Field(
        3,
        ge=2,
        le=16,
        description="After each round, 1 of this many students goes on, and is trained this many times as long.",
    )
