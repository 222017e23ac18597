"""Class maps held to the truth, and pictures of them: which images are shown, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcompress.class_maps import IGNORED, counted, overlaps
from kdcompress.drawing import painted
from kdcompress.picking import LOST, WON, Chosen, picked
from kdcompress.task import Panel, Picture

LEAST = 0.02  # of an image's mIoU, from which on something is lost or won
NAMED = 4  # labels in a caption
BACKGROUNDS = {"background", "__background__", "_background_"}  # labels that are not painted


def of_each(answers: np.ndarray, truth: np.ndarray, labels: int) -> np.ndarray:
    """The mean intersection over union in each image, 0..1, of the classes that are there or answered; NaN where
    nothing is judged. Both uint8 [N, H, W]."""
    made = np.full(len(truth), np.nan)
    for i in range(len(truth)):
        found = overlaps(counted(answers[i : i + 1], truth[i : i + 1], labels))
        if not np.isnan(found).all():
            made[i] = np.nanmean(found)
    return made


def pictures(images: Any, truth: np.ndarray, files: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Picture]:
    """Of a few images, the truth and what each file answers. ``images`` uint8 [N, H, W, C], an array or kept in a file;
    the first file is the one that the others are compared with."""
    judged = {name: of_each(answers, truth, len(labels)) for name, answers in files.items()}
    shown = []
    for title, what, i in chosen(judged):
        panels = [panel("truth", images[i], truth[i], labels)]
        panels += [
            panel(
                name,
                images[i],
                answers[i],
                labels,
                f"mIoU {100 * judged[name][i]:.0f} %, {right(answers[i], truth[i])}",
            )
            for name, answers in files.items()
        ]
        shown.append(Picture(title, what, i, tuple(panels)))
    return shown


def chosen(judged: Mapping[str, np.ndarray]) -> Chosen:
    names, (reference, *others) = list(judged), judged.values()
    shown = (others or [reference])[-1]
    there = np.flatnonzero(~np.isnan(shown))

    def ranked(gain: np.ndarray) -> list[int]:
        return [i for i in there[np.argsort(-gain[there], kind="stable")].tolist() if gain[i] >= LEAST]

    reasons = []
    if others:
        several = f"{' and '.join(names[1:])} {'answer' if len(others) > 1 else 'answers'}"
        lost, won = reference - np.max(others, axis=0), np.min(others, axis=0) - reference
        better = f"{names[0]} answers better than {' and '.join(names[1:])}."
        reasons = [
            ("Most lost", better, ranked(lost), LOST),
            ("Most won", f"{several} better than {names[0]}.", ranked(won), WON),
        ]
    return picked(reasons, there[np.argsort(shown[there], kind="stable")].tolist(), names[-1])


def panel(name: str, image: np.ndarray, classes: np.ndarray, labels: Sequence[str], verdict: str = "") -> Panel:
    shown = {k: label for k, label in enumerate(labels) if label.casefold() not in BACKGROUNDS}
    return Panel(name, shares(classes, labels), painted(image, classes, shown, IGNORED), verdict)


def shares(classes: np.ndarray, labels: Sequence[str]) -> str:
    """ "62 % background, 30 % coat": the labels that cover most, and how many others there are."""
    judged = classes[classes != IGNORED]
    counts = np.bincount(judged, minlength=len(labels))
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    named = order if len(order) <= NAMED else order[: NAMED - 1]
    said = [f"{100 * counts[k] / judged.size:.0f} % {labels[k]}" for k in named]
    others = len(order) - len(named)
    return ", ".join([*said, f"{others} others"] if others else said) or "nothing"


def right(answer: np.ndarray, real: np.ndarray) -> str:
    judged = real != IGNORED
    return f"{100 * float((answer == real)[judged].mean()):.0f} % of the pixels right"
