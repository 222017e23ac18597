"""How long each part of a run takes, from speeds that were measured; and the epochs that fit a time. Nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from kdcompress.bench.timing import EFFORTS
from kdcompress.pipelines.starter.speed import Speed
from kdcompress.pipelines.steps.check import PARITY_IMAGES

START = 8.0  # seconds until a command has loaded its libraries, twice measured on two slow cores
AGAIN = 0.5  # of the first export, the second takes: half of that is libraries that load
LOADING = 1.0  # seconds until a file is loaded and warm, before it is timed
FLOAT_FILES = 2  # fp32 of teacher and student
RATIO = 0.6  # epochs of the teacher, of the student's: it is the larger network
SHARE = 0.92  # of the time that is to be used: the rest is for what a machine does besides


@dataclass(frozen=True)
class Amounts:
    """What a run has to do, in images."""

    training: int
    validation: int
    test: int
    batch: int
    views: int  # of an image, as augmentation makes them
    targets: int
    effort: str = "rapid"

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return max(1, self.training // self.batch)

    def trained(self, speed: Speed, epochs: float) -> float:
        """Seconds of a training. A teacher's answer to a view of an image is computed once."""
        steps = max(1, round(epochs * self.steps))
        ends = math.ceil(steps / self.steps)
        seen = steps * self.batch / self.training  # times that an image is
        fresh = self.views * (1 - (1 - 1 / self.views) ** seen) if self.views > 1 else min(1.0, seen)
        asked = min(steps, math.ceil(fresh * self.training / self.batch))  # batches that the teacher answers
        return steps * speed.step + asked * speed.teacher + ends * (self.validation * speed.image + speed.end)


@dataclass(frozen=True)
class Prediction:
    """Seconds of each part."""

    images: float  # to decode them
    checks: float  # before anything is trained
    teacher: float
    student: float
    files: float  # exports, and each file checked on the test images
    latency: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())

    def rows(self) -> list[tuple[str, float]]:
        return [
            ("images and checks", self.images + self.checks),
            ("teacher", self.teacher),
            ("student", self.student),
            ("export and measuring", self.files + self.latency),
        ]


def predict(
    amounts: Amounts,
    speeds: Mapping[str, Speed],
    teacher_epochs: float,
    student_epochs: float,
    decoding: float,
    preflight: float,
    start: float = START,
) -> Prediction:
    """``decoding``: seconds until the images are there. ``preflight``: what the checks before a training take, in which
    each network is exported once, as it is again after it. ``start``: until a command has loaded its libraries."""
    answers = amounts.test + PARITY_IMAGES
    checked = answers * (speeds["teacher"].image + (1 + amounts.targets) * speeds["student"].image)
    ladder = amounts.targets * 4 * amounts.validation * speeds["student"].image
    return Prediction(
        images=decoding,
        checks=start + preflight,
        teacher=amounts.trained(speeds["teacher"], teacher_epochs),
        student=amounts.trained(speeds["student"], student_epochs),
        files=AGAIN * preflight + checked + ladder,
        latency=(FLOAT_FILES + amounts.targets) * (EFFORTS[amounts.effort][1] + LOADING),
    )


def fitting(amounts: Amounts, speeds: Mapping[str, Speed], seconds: float, most: float) -> tuple[float, float]:
    """Epochs of teacher and student whose trainings take about so many seconds, ``most`` at most of each; a step at
    least, however little time there is. What the student leaves at its most is the teacher's."""

    def longest(took: Callable[[float], float], low: float) -> float:
        if took(most) <= seconds:
            return most
        high = most
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if took(middle) <= seconds else (low, middle)
        return low

    teacher, student = partial(amounts.trained, speeds["teacher"]), partial(amounts.trained, speeds["student"])
    found = longest(lambda epochs: teacher(RATIO * epochs) + student(epochs), 0.0)
    of_teacher = RATIO * found
    if found == most:
        of_teacher = longest(lambda epochs: teacher(epochs) + student(most), of_teacher)
    least = 1 / amounts.steps
    return max(least, rounded(of_teacher)), max(least, rounded(found))


def rounded(epochs: float) -> float:
    """Down: to a whole number from 2 on, to a tenth from 0.2 on, else to one digit."""
    unit = 1.0 if epochs >= 2 else 0.1 if epochs >= 0.2 else 10.0 ** math.floor(math.log10(max(epochs, 1e-6)))
    return round(unit * math.floor(epochs / unit + 1e-9), 6)


def epochs(count: float) -> str:
    """ "1 epoch", "0.5 epochs" """
    return f"{count:g} epoch" + "s" * (count != 1)


def minutes(seconds: float) -> str:
    """ "about 11 min", "about 40 s" """
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5)):.0f} s"
    return f"about {seconds / 60:.1f} min" if seconds < 600 else f"about {seconds / 60:.0f} min"
