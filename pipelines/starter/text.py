"""The first recipe as a file: every line that a newcomer may want to change says what it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import yaml

from kdcompress import strict_yaml
from kdcompress.data.survey import Survey, held_back
from kdcompress.errors import shown
from kdcompress.pipelines.starter.choice import PHOTO, PRETRAINED, Setting, learning_rate, optimizer
from kdcompress.recipe import Recipe, apply_override, validate_recipe

METHOD = "kd"
NO_TIME = "null # int8 is not trained, for there is no time; without this line it is, where it loses more than max_drop"
BALANCE = "balance: sampling # all classes are shown equally often, images of a rare one again and again; or none"


@dataclass(frozen=True)
class Choice:
    """All that is chosen for a folder of photos."""

    found: Survey
    name: str
    setting: Setting
    batch: int
    teacher_epochs: float
    student_epochs: float
    augmented: bool
    targets: Sequence[str]
    effort: str = "rapid"
    learns_int8: bool = True
    unpretrained: str | None = None  # why the teacher starts from scratch, where photos would have a better start

    @property
    def side(self) -> int:
        return self.setting.side or min(self.found.one_size or (32, 32))

    @property
    def crop(self) -> int:
        return max(2, self.side // 16)

    @property
    def flip(self) -> bool:
        return self.found.channels == 3

    @property
    def max_drop(self) -> float:
        """Half a point, or what chance alone makes of the smaller split where one answer in ten may turn."""
        fewest = min(len(self.found.truth["validation"]), len(self.found.truth["test"]))
        return max(0.5, min(20.0, float(f"{100 * math.sqrt(0.1 / fewest):.2g}")))

    def from_scratch(self) -> Choice:
        """The same networks without weights, which train as fast."""
        return replace(self, setting=replace(self.setting, pretrained=False))

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        data = strict_yaml.parse(body(self))
        for override in overrides:
            apply_override(data, override)
        return validate_recipe(data)


def scalar(value: object) -> str:
    """As YAML has it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).split("\n...")[0].strip()


def comment(text: object) -> str:
    """What a file or a folder is called cannot end a comment."""
    return " ".join(shown(str(text)).split())


def body(choice: Choice) -> str:
    found, setting = choice.found, choice.setting
    task = [] if found.exclusive else ["task: multi-label # an image may have any number of the labels"]
    lines = [
        f"name: {scalar(choice.name)} # the run's folder is runs/{choice.name}",
        *task,
        *_metric(choice),
        "data:",
        f"  source: {found.data.source}",
        f"  root: {scalar(str(found.data.root))} # from the folder that you run kdcompress in",
        *_size(choice),
        *_held_back(choice),
        *_augment(choice),
        "teacher: # large and accurate; its answers teach the student",
        f"  model: {setting.teacher} # `kdcompress list models` shows others",
        *_start(choice),
        "  train:",
        *(f"    {line}" for line in _train(choice, choice.teacher_epochs)),
        "student: # small and fast; this one ships",
        f"  model: {setting.student} # `kdcompress plan` proposes one for a budget of milliseconds",
        *(["  pretrained: true"] if setting.pretrained else []),
        f"method: {METHOD} # how the student learns; `kdcompress list methods` shows others",
        "train: # of the student",
        *(f"  {line}" for line in _train(choice, choice.student_epochs)),
        "export:",
        f"  targets: {scalar(list(choice.targets))} # besides fp32 ONNX; `kdcompress list targets`, or auto: all"
        " that run here",
        f"  max_drop: {choice.max_drop:g} # the most that a file may score below the fp32 one, in % of the test images."
        " Of few images chance takes some",
        f"  qat: {_qat(choice)}",
        f"bench: {{effort: {choice.effort}}} # how long each file is timed: rapid, quick or normal",
        "gates: {} # limits; a run that misses one ends with exit code 1. For example {student: 90, latency_ms: 5}",
    ]
    return "\n".join(lines) + "\n"


def _metric(choice: Choice) -> list[str]:
    if not choice.found.unbalanced:
        return []
    label, share = choice.found.largest
    return [
        f"# The classes are of unequal size: always answering {comment(scalar(label))} is right for {share:.1f} %.",
        "metric: balanced-accuracy # the mean over the classes of the share that is found; or accuracy, f1, auroc",
    ]


def _held_back(choice: Choice) -> list[str]:
    shares, key = dict(held_back(choice.found)), f"validation: {choice.found.data.validation:g}"
    lines, of = [], "the training images"
    if "test" in shares:
        lines, of = [f"  # {shares['test']} of the images are held back for the test, the same each time"], "the rest"
    if "validation" in shares:
        return [*lines, f"  {key} # share of {of} that is held back to choose the best weights"]
    return [*lines, f"  # {key} is a share of {of} where there is no folder for it"]


def _size(choice: Choice) -> list[str]:
    if choice.setting.side is None:
        return ["  # size: 32 resizes the images to 32 x 32 pixels; without it they stay as they are"]
    return [f"  size: {choice.side} # pixels a side, of the middle of the image: larger is slower, and often better"]


def _augment(choice: Choice) -> list[str]:
    if not choice.augmented:
        return ["  # augment: {crop: 2, flip: true} shows each image in other views; over few epochs it costs too much"]
    flip = "true" if choice.flip else "false"
    return [
        "  augment: # each image is shown in other views",
        f"    crop: {choice.crop} # moved by up to so many pixels",
        f"    flip: {flip} # left and right; not for letters, digits and signs",
        "    views: 8 # of each image: the teacher answers each once",
    ]


def _start(choice: Choice) -> list[str]:
    setting = choice.setting
    if setting.pretrained:
        return ["  pretrained: true # from the weights that timm has; they are trained further on your images"]
    if choice.unpretrained:
        better = Setting(*PRETRAINED[0], pretrained=True)
        lr = learning_rate(better, choice.batch)
        return [
            f"  # From scratch: pretrained weights cannot be had here ({comment(choice.unpretrained)}).",
            "  # They are a better start for photos. Where they can be had, make this recipe anew, or change:",
            f"  # model: {better.teacher}",
            "  # pretrained: true",
            f"  # optimizer: {optimizer(better)}, lr: {lr:g}; data.size: {PHOTO} or more",
        ]
    return []


def _train(choice: Choice, epochs: float) -> list[str]:
    lr = learning_rate(choice.setting, choice.batch)
    return [
        f"epochs: {epochs:g} # passes over the training images: more take longer, and are often better",
        f"batch_size: {choice.batch} # images a step; fewer where memory is short",
        *(["optimizer: adamw", "weight_decay: 0.05"] if optimizer(choice.setting) == "adamw" else []),
        f"lr: {lr:g} # the size of the steps; lower where the loss does not fall",
        "schedule: one-cycle # lr rises, then falls",
        *([BALANCE] if choice.found.unbalanced else []),
    ]


def _qat(choice: Choice) -> str:
    if not choice.learns_int8:
        return NO_TIME
    return f"{{epochs: 2, lr: 0.01, batch_size: {choice.batch}}} # int8 is trained where it loses more; null: never"
