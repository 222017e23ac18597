"""What networks are trained on, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.augment import Augment
from kdcompress.recipe.section import Name, Names, Section, Seed

SIDES = 8, 2048  # the least and the most that an image may have, pixels


def sides(value: Any) -> Any:
    """One side or two; one error for what is neither, where a union would have one for each."""
    two = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_side, value))
    if value is None or two or _side(value):
        return tuple(value) if two else value
    raise ValueError("a number of {} to {} pixels, or [height, width]".format(*SIDES))


def _side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and SIDES[0] <= value <= SIDES[1]


Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]
Sides = Annotated[Side | tuple[Side, Side] | None, BeforeValidator(sides)]


REST = "rest"  # of the training images
TARGETS = "targets"  # their images, of `source: domains`
USUAL = {"unlabelled": 1, "balance": "none", "teacher_cache_top": None}  # of a training: keys that came later


class Hub(Section):
    """For `source: huggingface`: which of a data set, and what its columns are called."""

    config: Name | None = Field(None, description="Its configuration (subset). null: the default one.")
    revision: Name | None = Field(None, description="A branch, a tag or the hash of a commit. null: the newest.")
    image: Name | None = Field(None, description="Column of the images. null: the only one of images.")
    label: Name | None = Field(None, description="Column of the labels. null: the only one of classes, or `label`.")
    objects: Name | None = Field(None, description="Column of the boxes with their classes. null: `objects`.")
    boxes: Literal["xywh", "xyxy"] = Field(
        "xywh",
        description="What a box's four numbers are, in pixels. xywh: left, top, width, height. xyxy: two corners.",
    )


class Data(Section):
    """The images, and how they are split."""

    source: Name = Field(
        description="Name of the data: fashion-mnist, mnist, cifar10, cifar100, image-folder, image-labels or "
        "webdataset; with boxes: coco, yolo, voc or fashion-mnist-scenes; with masks: mask-folder, voc-segmentation, "
        "cityscapes or fashion-mnist-scenes; with labels or boxes: huggingface; with several "
        "domains: domains."
    )
    root: Path | None = Field(
        None,
        description="Folder where the files are, or are downloaded to. Shards can be written as {00..15}.tar. For "
        "`huggingface` also OWNER/NAME of a data set of the Hub.",
    )
    hub: Hub = Field(Hub(), description="For `source: huggingface`: configuration, revision and columns.")
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
        description="Images without labels, which the teacher alone answers for: a folder of any images, `rest` (the "
        "training images that `train_images` leaves) or `targets` (those of the target domains).",
    )
    labelled: Name | None = Field(
        None, description="For `source: domains`: the source domain, a folder in `root`, whose labels are learnt."
    )
    targets: Names | None = Field(
        None,
        description="For `source: domains`: the target domains, folders in `root`, whose labels are looked at for "
        "the score alone. null: all other folders.",
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
    size: Sides = Field(
        None,
        description="Resize each image to a square of this side, or to [height, width], in pixels. For sources of "
        "files, and scenes.",
    )
    fit: Literal["letterbox", "squash"] | None = Field(
        None,
        description="How images of another shape get the size. letterbox: with grey bars. squash: stretched. null: "
        "letterbox where there are boxes or masks, else the middle is cut out.",
    )
    channels: Literal[1, 3] | None = Field(
        None,
        description="Channels of each image. 1: grey, colour images by their luminance (ITU-R 601-2). 3: colour, which "
        "the images must have. null: as they are.",
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
    def domains_of_their_source(self) -> Data:
        own = ":" in self.source  # code of the user's, which may read them too
        if self.source != "domains" and not own and (self.labelled or self.targets):
            raise ValueError("`labelled` and `targets` are for `source: domains`: leave them out")
        if self.unlabelled == TARGETS and self.labelled is None and self.source != "domains":
            raise ValueError(f"`unlabelled: {TARGETS}` is for `source: domains`; a folder of that name is ./{TARGETS}")
        if self.labelled and self.public is not None:
            raise ValueError("`labelled` and `public` cannot be used together: leave one out")
        if self.targets and self.labelled in self.targets:
            raise ValueError(
                f"`targets` has the source domain {self.labelled!r}, which is `labelled`: leave it out there"
            )
        return self

    @model_validator(mode="after")
    def hub_of_its_source(self) -> Data:
        if self.source != "huggingface" and self.hub != Hub():
            raise ValueError("`hub` is for `source: huggingface`: leave it out")
        return self

    @model_validator(mode="after")
    def ignore_of_masks(self) -> Data:
        if self.ignore != 255 and self.source != "mask-folder" and ":" not in self.source:
            raise ValueError("`ignore` is for `source: mask-folder`: leave it out")
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
    balance: Literal["none", "weights", "sampling"] = Field(
        "none",
        description="For classes of unequal size. weights: in the loss of the labels, an image of a rare class counts "
        "more. sampling: each class is shown equally often, and images of a rare one again and again.",
    )
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
    teacher_cache_top: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Keep only so many of the largest probabilities of each answer, and spread the rest evenly over "
        "the other classes, such as 10 of 1,000. The training reads answers so. null: all of them.",
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
    def a_part_of_what_is_kept(self) -> Train:
        if self.teacher_cache_top is not None and self.teacher_cache == "off":
            raise ValueError("`teacher_cache_top` says what is kept of the answers, and `teacher_cache` is off")
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
        usual = {name for name, value in USUAL.items() if getattr(self, name) == value}
        facts = self.model_dump(mode="json", exclude=exact | usual | {"tune"})
        return facts | {"ema_warms_up": True} if self.ema else facts  # trainings of before it did are other ones
