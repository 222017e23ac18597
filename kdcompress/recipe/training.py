"""What networks are trained on, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.section import Name, Section, Seed

SIDES = 8, 2048  # the least and the most that an image may have, pixels


def _sides(value: Any) -> Any:
    """One side or two; one error for what is neither, where a union would have one for each."""
    two = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_side, value))
    if value is None or two or _side(value):
        return tuple(value) if two else value
    raise ValueError("a number of {} to {} pixels, or [height, width]".format(*SIDES))


def _side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and SIDES[0] <= value <= SIDES[1]


Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]


class Augment(Section):
    """Batched augmentation; each combination is one view with a number of its own."""

    crop: int = Field(0, ge=0, le=64, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="horizontal flip, probability one half")
    cutout: int = Field(0, ge=0, le=1024, description="side in pixels of a square set to zero")
    views: int = Field(
        0, ge=0, le=1_000_000, description="each image has so many views, always the same, drawn once; 0: all"
    )
    scale: float = Field(
        0.0, ge=0, le=0.5, description="zoom about a random place: 0.25 makes the image 0.75 to 1.25 times as large"
    )
    colour: float = Field(
        0.0, ge=0, le=0.9, description="brightness, contrast and saturation: 0.2 makes each 0.8 to 1.2 times as strong"
    )

    def deciding(self) -> dict[str, Any]:
        """All that the views depend on, as JSON; what is off is not named, as before there was such a thing."""
        own = {"scale", "colour"}
        return self.model_dump(mode="json", exclude={name for name in own if not getattr(self, name)})


class Data(Section):
    source: Name = Field(
        description="fashion-mnist, mnist, cifar10, cifar100, image-folder, image-labels, webdataset; with boxes:"
        " coco, yolo, voc, fashion-mnist-scenes"
    )
    root: Path | None = Field(None, description="where the files are, or are downloaded to; shards: {00..15}.tar too")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the training images, stratified")
    train_images: int | None = Field(None, ge=2, le=1_000_000_000, description="use only this many, stratified")
    label_noise: float = Field(
        0.0, ge=0, lt=1, description="share of the training images that get the label of another class, for experiments"
    )
    public: float | None = Field(
        None, gt=0, lt=1, description="share of the training images for the student; teachers get parts of the rest"
    )
    size: Annotated[Side | tuple[Side, Side] | None, BeforeValidator(_sides)] = Field(
        None,
        description="side of the square that images are resized to, or [height, width] (sources of files, and scenes)",
    )
    fit: Literal["letterbox", "squash"] | None = Field(
        None,
        description="how images of another shape get the size: with grey bars, or stretched; null: letterbox where"
        " there are boxes, else the middle is cut out",
    )
    split_seed: Seed = Field(0, description="another number cuts other validation and test images")
    augment: Augment = Field(Augment(), description="other views of each training image")

    @model_validator(mode="after")
    def each_image_for_itself(self) -> Data:
        if self.public is not None and self.train_images is not None:
            raise ValueError("`train_images` chooses images by comparing them, which `public` must not: leave one out")
        return self

    @model_validator(mode="after")
    def fit_of_a_size(self) -> Data:
        if self.fit is not None and self.size is None:
            raise ValueError("`fit` says how images get the `size`: give that too")
        return self


class Train(Section):
    """One training. ``epochs`` counts passes over the training images; ``images`` is the budget of
    images seen and replaces it."""

    epochs: float = Field(12, gt=0, le=10_000, description="passes over the training images")
    images: int | None = Field(None, ge=1, le=10**12, description="budget of images seen, instead of epochs")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step, of all processes together")
    accumulate: int = Field(1, ge=1, le=1024, description="a batch in so many parts, one after the other: less memory")
    optimizer: Literal["sgd", "adamw", "dot"] = Field("sgd", description="dot: SGD with a momentum for distillation")
    lr: float = Field(0.1, gt=0, le=10, description="learning rate: its highest in the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and dot")
    nesterov: bool = Field(True, description="Nesterov's momentum, of sgd")
    dot_delta: float = Field(0.075, ge=0, lt=0.5, description="distillation's momentum is higher, the task's lower")
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="by how much a step shrinks the weights, times lr")
    schedule: Literal["cosine", "one-cycle", "multi-step", "constant"] = Field(
        "cosine", description="how lr changes during the training"
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (), max_length=100, description="multi-step: shares of the training at which lr falls 10x"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps with rising lr")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the label that all classes get")
    clip_norm: float | None = Field(None, gt=0, le=1e6, description="the gradient's largest norm; null: no limit")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the arithmetic; auto: bf16 where the device is fast at it, else fp32"
    )
    channels_last: bool = Field(True, description="memory format; faster for most convolutional networks")
    compile: Annotated[
        Literal["off", "default", "reduce-overhead", "max-autotune"],
        BeforeValidator(lambda v: {False: "off", True: "default"}.get(v, v) if isinstance(v, bool) else v),
    ] = Field("off", description="torch.compile's mode, or true; the last two use CUDA graphs")
    sync_batch_norm: bool = Field(False, description="of several processes: statistics of the whole batch")
    select: Literal["best", "last"] = Field("best", description="best by the validation score, or last")
    teacher_cache: Annotated[Literal["exact", "fp16", "off"], BeforeValidator(lambda v: "off" if v is False else v)] = (
        Field("exact", description="the teacher's answers are kept and read: as they are, in half the bytes, or not")
    )
    teacher_cache_gib: float = Field(
        4.0, gt=0, le=1_000_000, description="what the kept answers of all teachers may take on the disk"
    )

    @model_validator(mode="after")
    def two_momenta(self) -> Train:
        if self.optimizer == "dot" and not self.dot_delta <= self.momentum < 1 - self.dot_delta:
            raise ValueError("optimizer dot: momentum ± dot_delta must lie in 0..1")
        if self.optimizer == "dot" and self.precision == "fp16":
            raise ValueError("optimizer dot does not scale its two gradients for fp16: use auto, bf16 or fp32")
        if self.optimizer == "dot" and self.accumulate > 1:
            raise ValueError("optimizer dot does not add up its two gradients over the parts of a batch: no accumulate")
        return self

    @model_validator(mode="after")
    def equal_parts(self) -> Train:
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"a batch_size of {self.batch_size} does not make {self.accumulate} equal parts of 2 images or more"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """All that the trained weights depend on, as JSON: an exact cache changes no bit of them."""
        exact = {"teacher_cache_gib"} if self.teacher_cache == "fp16" else {"teacher_cache_gib", "teacher_cache"}
        facts = self.model_dump(mode="json", exclude=exact)
        return facts | {"ema_warms_up": True} if self.ema else facts  # trainings of before it did are other ones
