"""From a folder of photos and a time to a recipe: look, choose, measure, predict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

from kdcompress.bench.machine import cpu_seconds, cpu_use
from kdcompress.console import say
from kdcompress.data import kept
from kdcompress.data.source import load
from kdcompress.data.splits import Source
from kdcompress.data.survey import Survey, refusal, sampled, summary, survey
from kdcompress.export import formats
from kdcompress.models.build import build
from kdcompress.models.counting import macs
from kdcompress.pipelines import checks
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.starter import weights
from kdcompress.pipelines.starter.choice import SMALL, Setting, batch_size, optimizer, settings, targets_here
from kdcompress.pipelines.starter.prediction import (
    RATIO,
    SHARE,
    START,
    Amounts,
    Prediction,
    epochs,
    fitting,
    minutes,
    predict,
)
from kdcompress.pipelines.starter.speed import Speed, measured
from kdcompress.pipelines.starter.text import Choice
from kdcompress.recipe import Recipe

LATE = 60.0  # seconds: a process that is older has done more than to load its libraries
PREFLIGHT = 15.0  # seconds of the checks, until they are measured
FEW_EPOCHS = 8  # below so many other views cost more than they give
VIEWS = 8
DECODED_AT_ONCE = 0.1  # of the time: what takes no longer is decoded now, and kept for the run
ENDS_EARLY = 0.75  # of the time: a run that is shorter says why
SHORT = 0.9  # of the epochs that a setting wants: fewer are told
BUSY = 10.0  # per cent of the processors that others use, from which on it is told
HOPEFUL = 1.6  # a setting is measured where its estimate is not more than so much too long


@dataclass(frozen=True)
class Measured:
    """A choice, how fast this machine is at it, the seconds that all images take to decode, and some of them."""

    choice: Choice
    speeds: Mapping[str, Speed]
    decoding: float
    sample: Source


@dataclass(frozen=True)
class Made:
    choice: Choice
    recipe: Recipe
    prediction: Prediction
    tried: checks.Tried  # what the run need not try again


class Starter:
    """``seconds``: of the whole run. ``began``: when they began to count (time.monotonic()), where choosing is part of
    them."""

    def __init__(
        self, photos: Path, name: str, seconds: float, targets: Sequence[str] = (), began: float | None = None
    ):
        if targets:
            formats.chosen(targets)  # names the unknown one
        self.photos, self.name, self.asked, self.began = photos, name, seconds, began
        self.targets = list(targets) or targets_here()
        self.start = 0.0 if began is not None else loaded()  # until the run's own process has its libraries

    @property
    def seconds(self) -> float:
        """That are left."""
        return max(1.0, self.asked - (time.monotonic() - self.began if self.began is not None else 0.0))

    def make(self) -> Made:
        """Tells what it finds, on the way. Raises UsageError for a folder that no run can be made of."""
        say(f"Looking at {self.photos}", style="bold")
        found = survey(self.photos)
        for what, text in summary(found):
            say(f"  {what:<9} {text}", style="yellow" if what == "note" else None)
        if found.unreadable:
            raise refusal(found, found.unreadable)
        why = self._unpretrained(found)
        say("Measuring this machine: some steps of each network's training", style="bold")
        before = cpu_seconds()
        known = self._chosen(found, why)
        others = cpu_use(before, cpu_seconds())["other_cpu_percent"] or 0
        source, decoding = self._images(known.choice, known.decoding)
        preflight, tried = _preflight(known.choice.recipe(), source or known.sample)
        choice, prediction = self._fitted(known.choice, known.speeds, decoding, preflight)
        self._tell(choice, prediction, known.speeds)
        if others > BUSY:
            text = f"Other programs used {others:.0f} % of the processors: the run takes as predicted if they go on so"
            say(f"  note      {text}", style="yellow")
        return Made(choice, choice.recipe(), prediction, tried)

    # Chosen

    def _unpretrained(self, found: Survey) -> str | None:
        """Why photos get no pretrained networks; None where they do, and for images that are better without."""
        names = dict.fromkeys(n for s in settings(found, True) if s.pretrained for n in (s.teacher, s.student))
        if not names or found.channels != 3:
            return None
        why = weights.unreachable(list(names))
        if why is None:
            say("  weights   getting the pretrained networks, where they are not in the cache yet")
            why = weights.downloaded(list(names), len(found.listed.labels))
        if why:
            say(f"  note      no pretrained weights: {why}. The teacher is trained from scratch", style="yellow")
            say("            Where they can be had: the recipe says which lines to change", style="yellow")
        return why

    def _chosen(self, found: Survey, why: str | None) -> Measured:
        """The best setting whose trainings fit the time; else the cheapest."""
        wanted = settings(found, found.channels == 3 and why is None)
        cheapest = min(wanted, key=lambda setting: _macs(setting, found))
        simplest = self._measured(cheapest, found, why)
        paces = {optimizer(cheapest): simplest}  # by whose pace others of the kind are estimated
        last = simplest
        for setting in wanted[: wanted.index(cheapest)]:
            known = paces.get(optimizer(setting), last)
            step = known.speeds["teacher"].step + known.speeds["student"].step
            pace = step / known.choice.batch / _macs(known.choice.setting, found)
            if self._hopeful(setting, found, pace * _macs(setting, found)):
                last = paces[optimizer(setting)] = self._measured(setting, found, why)
                if self._enough(last):
                    return last
        return simplest

    def _hopeful(self, setting: Setting, found: Survey, image: float) -> bool:
        """Whether the least number of epochs might fit, at so many seconds an image of both trainings."""
        training = len(found.truth["training"])
        least, _ = setting.epochs(training)
        return 0.8 * least * training * image < HOPEFUL * self._for_training(0.0, PREFLIGHT)

    def _measured(self, setting: Setting, found: Survey, why: str | None) -> Measured:
        training = len(found.truth["training"])
        _, most = setting.epochs(training)
        choice = Choice(
            found, self.name, setting, batch_size(training), most, most, True, self.targets,
            effort="rapid" if self.asked < 900 else "quick", unpretrained=why,
        )  # fmt: skip
        sample, each = sampled(found, setting.side)
        seconds = min(max(0.05 * self.asked, 4.0), 12.0)
        recipe = choice.from_scratch().recipe()
        speeds = measured(Networks(recipe, parts_of(recipe), _of(sample, recipe)), ("teacher", "student"), seconds)
        return Measured(choice, speeds, each * found.images, sample)

    def _enough(self, known: Measured) -> bool:
        fitted, _ = self._fitted(known.choice, known.speeds, known.decoding, PREFLIGHT)
        least, _ = known.choice.setting.epochs(len(known.choice.found.truth["training"]))
        return fitted.student_epochs >= least

    # Fitted to the time

    def _for_training(self, decoding: float, preflight: float) -> float:
        rest = predict(self._amounts(None), NOTHING, 0.0, 0.0, decoding, preflight, self.start)
        return SHARE * self.seconds - rest.total

    def _amounts(self, choice: Choice | None) -> Amounts:
        if choice is None:
            return Amounts(1, 0, 0, 1, 1, len(self.targets))
        training, validation, test = (len(choice.found.truth[name]) for name in ("training", "validation", "test"))
        views = VIEWS if choice.augmented else 1
        return Amounts(training, validation, test, choice.batch, views, len(self.targets), choice.effort)

    def _fitted(
        self, choice: Choice, speeds: Mapping[str, Speed], decoding: float, preflight: float
    ) -> tuple[Choice, Prediction]:
        _, most = choice.setting.epochs(len(choice.found.truth["training"]))
        for augmented in (True, False):
            choice = replace(choice, augmented=augmented)
            amounts = self._amounts(choice)
            rest = predict(amounts, speeds, 0.0, 0.0, decoding, preflight, self.start)
            left = SHARE * self.seconds - (rest.total - rest.teacher - rest.student)
            teacher, student = fitting(amounts, speeds, left, most)
            if student >= FEW_EPOCHS:
                break
        prediction = predict(amounts, speeds, teacher, student, decoding, preflight, self.start)
        if student == most:  # there may be time left over
            longer = predict(
                replace(amounts, effort="normal"), speeds, teacher, student, decoding, preflight, self.start
            )
            if longer.total <= SHARE * self.seconds:
                choice, prediction = replace(choice, effort="normal"), longer
        learns = self._learning(choice, speeds) < 0.2 * self.seconds
        return replace(choice, teacher_epochs=teacher, student_epochs=student, learns_int8=learns), prediction

    def _learning(self, choice: Choice, speeds: Mapping[str, Speed]) -> float:
        """Seconds that learning int8 may take: two epochs with rounding in them, which makes a step longer."""
        student = speeds["student"]
        return self._amounts(choice).trained(replace(student, step=2 * student.step), 2.0)

    # Made sure

    def _images(self, choice: Choice, decoding: float) -> tuple[Source | None, float]:
        """All images, where that is soon done: then the run has them already. Else none, and how long they take."""
        if decoding > max(10.0, DECODED_AT_ONCE * self.asked):
            return None, decoding
        source = load(choice.recipe().data)
        return source, 1.0 if kept.folder() else decoding

    def _tell(self, choice: Choice, prediction: Prediction, speeds: Mapping[str, Speed]) -> None:
        setting, found = choice.setting, choice.found
        size = f"{setting.side} x {setting.side} pixels" if setting.side else "as they are"
        start = "pretrained" if setting.pretrained else "from scratch"
        say("Chosen", style="bold")
        say(f"  images    {size}" + (", in other views" if choice.augmented else ""))
        say(f"  teacher   {setting.teacher}, {start}, {epochs(choice.teacher_epochs)}")
        say(f"  student   {setting.student}, {start}, {epochs(choice.student_epochs)}, taught by the teacher")
        say(f"  targets   fp32 ONNX, {', '.join(choice.targets)}")
        say("Predicted for this machine", style="bold")
        for what, seconds in prediction.rows():
            say(f"  {what:<21} {minutes(seconds)}")
        gone = f", {minutes(self.asked - self.seconds)} of which are gone" if self.began is not None else ""
        say(f"  {'all':<21} {minutes(prediction.total)} of {self.asked / 60:g} min{gone}", style="bold")
        if choice.learns_int8:
            more = minutes(self._learning(choice, speeds))
            say(
                f"  At most {more} more where int8 scores over {choice.max_drop:g} % below fp32: it is trained then",
                style="dim",
            )
        training = len(found.truth["training"])
        least, _ = setting.epochs(training)
        if choice.student_epochs < SHORT * least:
            amounts = self._amounts(choice)
            preflight = prediction.checks - self.start
            needed = predict(amounts, speeds, RATIO * least, least, prediction.images, preflight, self.start).total
            say(
                f"  note      {self.asked / 60:g} min is short for {training:,} training images: the student sees"
                f" each {choice.student_epochs:g} times. --minutes {needed / SHARE / 60 + 1:.0f} gives it {least:.0f}",
                style="yellow",
            )
        if prediction.total < ENDS_EARLY * self.seconds:
            bound = f"{epochs(choice.student_epochs)} of {training:,} training images are the most that is chosen"
            say(f"  note      It ends early: {bound}, for more seldom bring much. train.epochs in the recipe has more")
        if prediction.total > self.seconds:
            largest = max(prediction.rows(), key=lambda row: row[1])[0]
            say(f"  note      It does not fit the time: {largest} takes most of it", style="yellow")


def loaded() -> float:
    """Seconds that this process took to load its libraries, as a run's will, ``START`` at least; that too where the
    process has done other things."""
    age = time.time() - psutil.Process().create_time()
    return max(START, age) if age < LATE else START


NOTHING = {role: Speed(0.0, 0.0, 0.0, 0.0) for role in ("teacher", "student")}


def _of(source: Source, recipe: Recipe) -> Sources:
    """These images in place of the recipe's own."""
    sources = Sources(recipe.data, recipe.task)
    sources.main = source
    return sources


def _macs(setting: Setting, found: Survey) -> float:
    """About the multiply-accumulates of an image in both networks: of convolutions they grow as the pixels do."""
    side = setting.side or min(found.one_size or (SMALL, SMALL))
    return sum(_macs_small(name, found.channels) for name in (setting.teacher, setting.student)) * (side / SMALL) ** 2


@cache
def _macs_small(name: str, channels: int) -> float:
    return float(macs(build(name, 10, channels), torch.zeros(1, channels, SMALL, SMALL)))


def _preflight(recipe: Recipe, source: Source) -> tuple[float, checks.Tried]:
    """Seconds that the run's own checks take, and what they tried. Raises UsageError for what they find."""
    with TemporaryDirectory() as folder:
        compression = Compression(recipe, Path(folder), sources=_of(source, recipe))
        begun = time.monotonic()
        compression.check()
        return time.monotonic() - begun, compression.tried
