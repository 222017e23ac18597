"""What a first recipe may choose from, the best first, and what follows from the photos alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kdcompress.data.survey import Survey
from kdcompress.export import formats

SMALL = 64  # pixels a side, up to which the small networks of the papers see the images as they are
LEAST = 28  # and from which they take them
PHOTO = 96  # from which a network that was pretrained on larger photos is of use
SIDES = (224, 192, 160, 128, 96, 64, 48, 32)
TARGETS = ("x86-vnni", "x86-avx2", "arm64-dotprod")  # int8 of ONNX Runtime, one of which fits a processor
ENGINES = ("tensorrt",)


@dataclass(frozen=True)
class Setting:
    """``side``: what the images are resized to; None: they stay as they are. ``pretrained``: the teacher starts from
    the weights that its library has, the student too."""

    teacher: str
    student: str
    side: int | None = None
    pretrained: bool = False

    @property
    def bound(self) -> tuple[int, int]:
        """Images that each training is to see, at least and at most. A network that is trained already needs fewer."""
        return (12_000, 100_000) if self.pretrained else (40_000, 400_000)

    def epochs(self, images: int) -> tuple[float, float]:
        """At least and at most, over so many training images."""
        least, most = self.bound
        return min(max(least / images, 3.0), 40.0), min(max(most / images, 10.0), 80.0)


def settings(found: Survey, pretrained: bool) -> list[Setting]:
    """The best first: larger images and networks, which cost more."""
    shorter, whole = int(np.median(found.shorter)), found.one_size
    if whole and max(whole) <= SMALL and min(whole) >= LEAST:
        side = None if whole[0] == whole[1] else min(whole)
        return [Setting(*pair, side) for pair in PAPERS]
    sides = [side for side in SIDES if side <= shorter] or [SIDES[-1]]
    if pretrained and shorter >= PHOTO:
        return [Setting(*pair, side, True) for side in sides if side >= PHOTO for pair in PRETRAINED]
    return [Setting(*pair, side) for side in sides for pair in (SCRATCH if side >= SMALL else PAPERS[1:])]


PAPERS = (("resnet32x4", "resnet8x4"), ("resnet8x4", "resnet8"), ("resnet8x2", "resnet8"))
SCRATCH = (("timm/resnet18", "timm/mobilenetv3_small_100"),)
PRETRAINED = (("timm/resnet34", "timm/mobilenetv3_small_100"), ("timm/resnet18", "timm/mobilenetv3_small_100"))


def batch_size(images: int) -> int:
    """Of so many training images: 128, or less so that an epoch has 30 steps; 16 at least, where there are so many."""
    size = 128
    while size > 16 and images / size < 30:
        size //= 2
    return max(2, min(size, images))


def optimizer(setting: Setting) -> str:
    """SGD for the papers' networks, as they have it. A mobile network learns more by AdamW in a short time."""
    return "adamw" if setting.teacher.startswith("timm/") else "sgd"


def learning_rate(setting: Setting, batch: int) -> float:
    """For a batch of 128; of a smaller one lower, by the square root."""
    full = 0.1 if optimizer(setting) == "sgd" else 0.0005 if setting.pretrained else 0.003
    return float(f"{full * math.sqrt(batch / 128):.1g}")


def targets_here() -> list[str]:
    """For this machine: the int8 of its processor, and an engine where there is a GPU that runs one."""
    known = formats.targets()
    found = [name for name in TARGETS if known[name].timed_here and all(formats.availability(known[name])[:2])][:1]
    found += [name for name in ENGINES if all(formats.availability(known[name])[:2])]
    return found or ["onnx-fp16"]
