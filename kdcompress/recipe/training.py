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


REST = "rest"  # of the training images


class Augment(Section):
    """Random changes of the training images. Each combination of them is one view of an image."""

    crop: int = Field(0, ge=0, le=64, description="Pixels of zero padding before a random crop. 0: no crop.")
    flip: bool = Field(False, description="Flip half of the images horizontally, at random.")
    cutout: int = Field(
        0, ge=0, le=1024, description="Side of a random square that is set to zero, in pixels. 0: no square."
    )
    views: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Number of different views of each image. They are drawn once and stay the same. 0: "
        "all that there are.",
    )
    scale: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Zoom about a random place. 0.25 makes the image 0.75 to 1.25 times as large. 0: no zoom.",
    )
    colour: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Random brightness, contrast and saturation. 0.2 makes each 0.8 to 1.2 times as "
        "strong. 0: unchanged.",
    )
    resized_crop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Random crop that is resized to the whole image: its least share of the area. Its sides are 3:4 to "
        "4:3. ImageNet's views have 0.08. 0: no such crop.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Blend each image with another one, and their labels by the same share, drawn from Beta(mixup, "
        "mixup). 1: all shares alike. 0: no mixup.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Paste a rectangle of another image into each one, and mix their labels by area, drawn from "
        "Beta(cutmix, cutmix). With mixup, each image gets one of the two. 0: no CutMix.",
    )

    @model_validator(mode="after")
    def one_zoom(self) -> Augment:
        if self.scale and self.resized_crop:
            raise ValueError("`scale` and `resized_crop` cannot be used together: leave one out")
        return self

    @property
    def mixes(self) -> str:
        """The keys of what mixes two images, such as "mixup and cutmix"; "" where nothing does."""
        return " and ".join(name for name in ("mixup", "cutmix") if getattr(self, name))

    def deciding(self) -> dict[str, Any]:
        """All that the images depend on, as JSON; what is off is not named, as before there was such a thing."""
        own = {"scale", "colour", "resized_crop", "mixup", "cutmix"}
        return self.model_dump(mode="json", exclude={name for name in own if not getattr(self, name)})


class Data(Section):
    """The images, and how they are split."""

    source: Name = Field(
        description="Name of the data: fashion-mnist, mnist, cifar10, cifar100, image-folder, image-labels or "
        "webdataset; with boxes: coco, yolo, voc or fashion-mnist-scenes; with masks: mask-folder, voc-segmentation, "
        "cityscapes or fashion-mnist-scenes."
    )
    root: Path | None = Field(
        None, description="Folder where the files are, or are downloaded to. Shards can be written as {00..15}.tar."
    )
    validation: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the training images kept for validation, with the same share of each class.",
    )
    train_images: int | None = Field(
        None,
        ge=2,
        le=1_000_000_000,
        description="Use only this many training images, with the same share of each class. null: all.",
    )
    unlabelled: str | None = Field(
        None,
        min_length=1,
        description="Images without labels, which the teacher alone answers for: a folder of any images, or `rest`: "
        "the training images that `train_images` leaves.",
    )
    label_noise: float = Field(
        0.0, ge=0, lt=1, description="Share of the training images that get a wrong label on purpose, for experiments."
    )
    public: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="For `pate`: share of the training images that are public. The student learns from "
        "these, the teachers from parts of the rest.",
    )
    size: Annotated[Side | tuple[Side, Side] | None, BeforeValidator(_sides)] = Field(
        None,
        description="Resize each image to a square of this side, or to [height, width], in pixels. For sources of "
        "files, and scenes.",
    )
    fit: Literal["letterbox", "squash"] | None = Field(
        None,
        description="How images of another shape get the size. letterbox: with grey bars. squash: stretched. null: "
        "letterbox where there are boxes or masks, else the middle is cut out.",
    )
    ignore: int = Field(
        255, ge=0, le=255, description="For `mask-folder`: value of a mask's pixels that belong to no class."
    )
    split_seed: Seed = Field(0, description="Seed of the choice of validation and test images.")
    augment: Augment = Field(Augment(), description="Random changes of each training image: its views.")

    @model_validator(mode="after")
    def each_image_for_itself(self) -> Data:
        if self.public is not None and self.train_images is not None:
            raise ValueError("`train_images` and `public` cannot be used together: leave one out")
        if self.public is not None and self.unlabelled is not None:
            raise ValueError("`unlabelled` and `public` cannot be used together: leave one out")
        if self.unlabelled == REST and self.train_images is None:
            raise ValueError(f"`unlabelled: {REST}` is what `train_images` leaves: give that too")
        return self

    @model_validator(mode="after")
    def fit_of_a_size(self) -> Data:
        if self.fit is not None and self.size is None:
            raise ValueError("`fit` says how images get the `size`: give that too")
        return self


class Tune(Section):
    """A search for the settings of a training, on short trainings that validation images judge, before the full one."""

    trials: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Number of settings that are tried. The first are those of the recipe. 0: no search.",
    )
    share: float = Field(
        0.1, gt=0, le=1, description="Length of a short training, as a share of the full one. It has a whole schedule."
    )
    ranges: dict[Name, tuple[float, float]] = Field(
        {},
        max_length=100,
        description="What is searched, and between which values: {train.lr: [0.01, 0.2], method.kd.temperature: "
        "[1, 8]}. Default: the learning rate from a fifth of the recipe's to five times it, and the weights and "
        "temperatures of the method from a quarter to four times.",
    )

    @model_validator(mode="after")
    def something_to_compare(self) -> Tune:
        if self.trials == 1:
            raise ValueError("`trials` must be 2 or more, for the first are the recipe's own settings; 0: no search")
        if wrong := [name for name, (low, high) in self.ranges.items() if not low < high]:
            raise ValueError(f"the first value of a range must be the smaller one: {', '.join(wrong)}")
        return self


class Train(Section):
    """One training. Its length is given by ``epochs``, or by ``images``."""

    epochs: float = Field(12, gt=0, le=10_000, description="Passes over the training images.")
    images: int | None = Field(
        None, ge=1, le=10**12, description="Number of images seen in the training, in place of `epochs`."
    )
    unlabelled: int = Field(
        1,
        ge=1,
        le=64,
        description="How many images without a label are beside each labelled one in a batch, with `data.unlabelled`.",
    )
    batch_size: int = Field(128, ge=2, le=65_536, description="Images in each iteration, over all processes together.")
    accumulate: int = Field(
        1,
        ge=1,
        le=1024,
        description="Compute each batch in this many parts, one after the other. More parts need less memory.",
    )
    optimizer: Literal["sgd", "adamw", "dot"] = Field(
        "sgd", description="The optimiser. dot is SGD with one momentum for the task and one for the distillation."
    )
    lr: float = Field(0.1, gt=0, le=10, description="Learning rate, at its highest point in the schedule.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd and dot.")
    nesterov: bool = Field(True, description="Use Nesterov's momentum, for sgd.")
    dot_delta: float = Field(
        0.075,
        ge=0,
        lt=0.5,
        description="For dot: this is added to the momentum for the distillation and taken from that for "
        "the task. The reference code uses 0.075 on CIFAR-100 and 0.09 on ImageNet.",
    )
    weight_decay: float = Field(
        5e-4, ge=0, lt=1, description="Share by which each iteration shrinks the weights, times the learning rate."
    )
    schedule: Literal["cosine", "one-cycle", "multi-step", "constant"] = Field(
        "cosine", description="How the learning rate changes during the training."
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (),
        max_length=100,
        description="For multi-step: shares of the training after which the learning rate is divided by 10.",
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training in which the learning rate rises. one-cycle takes 0.25 where this is 0.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label that is spread over all classes.")
    clip_norm: float | None = Field(
        None, gt=0, le=1e6, description="Largest norm of the gradient; a longer one is scaled down. null: no limit."
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, such as 0.999. The averaged weights are what "
        "ships. null: no average.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the arithmetic. auto: bf16 where the device is fast at it, else fp32."
    )
    channels_last: bool = Field(
        True, description="Memory format of the images. It is faster for most convolutional networks."
    )
    compile: Annotated[
        Literal["off", "default", "reduce-overhead", "max-autotune"],
        BeforeValidator(lambda v: {False: "off", True: "default"}.get(v, v) if isinstance(v, bool) else v),
    ] = Field(
        "off", description="Mode of torch.compile; true is `default`. reduce-overhead and max-autotune use CUDA graphs."
    )
    sync_batch_norm: bool = Field(
        False, description="With several processes: batch norms see the whole batch, not only their process's part."
    )
    select: Literal["best", "last"] = Field(
        "best",
        description="Which weights are kept. best: those with the best validation score. last: those at the end.",
    )
    teacher_cache: Annotated[Literal["exact", "fp16", "off"], BeforeValidator(lambda v: "off" if v is False else v)] = (
        Field(
            "exact",
            description="Keep the teacher's answers on disk and read them again. exact: unchanged. fp16: in "
            "half the bytes. off: not at all.",
        )
    )
    teacher_cache_gib: float = Field(
        4.0, gt=0, le=1_000_000, description="Disk space for the answers of all teachers, at most, in GiB."
    )

    tune: Annotated[Tune, BeforeValidator(lambda v: {"trials": v} if type(v) is int else v)] = Field(
        Tune(),
        description="A search for good settings before this training, for `train` and `teacher.train`. A number alone "
        "stands for `trials`. `kdcompress compare` refuses it.",
    )

    @model_validator(mode="after")
    def two_momenta(self) -> Train:
        if self.optimizer == "dot" and not self.dot_delta <= self.momentum < 1 - self.dot_delta:
            raise ValueError("optimizer dot: momentum ± dot_delta must lie in 0..1")
        if self.optimizer == "dot" and self.precision == "fp16":
            raise ValueError("optimizer dot does not scale its two gradients for fp16: use auto, bf16 or fp32")
        if self.optimizer == "dot" and self.accumulate > 1:
            raise ValueError("optimizer dot cannot be used with accumulate: leave one out")
        return self

    @model_validator(mode="after")
    def equal_parts(self) -> Train:
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into {self.accumulate} equal parts of 2 images or more"
            )
        return self

    def untuned(self) -> Train:
        """The same without a search."""
        return self.model_copy(update={"tune": Tune()})

    def deciding(self) -> dict[str, Any]:
        """All that the trained weights depend on, as JSON: an exact cache changes no bit of them."""
        exact = {"teacher_cache_gib"} if self.teacher_cache == "fp16" else {"teacher_cache_gib", "teacher_cache"}
        usual = {"unlabelled"} if self.unlabelled == 1 else set()
        facts = self.model_dump(mode="json", exclude=exact | usual | {"tune"})
        return facts | {"ema_warms_up": True} if self.ema else facts  # trainings of before it did are other ones
