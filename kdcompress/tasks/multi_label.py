"""A set of labels an image: each has a logit of its own, whose sigmoid is the share. Mean average precision is the
figure, and F1 at a share of 0.5 stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress.artifact import Output
from kdcompress.errors import UsageError, some
from kdcompress.task import Metric, OneFigure, Outputs, unanswered
from kdcompress.tasks import tasks
from kdcompress.tasks._of_logits import Decisions, OfLogits, check_logits, logits_in

if TYPE_CHECKING:
    from torch import Tensor

    from kdcompress.task import Needs

BLOCK = 500_000  # weights at a time: what stays in a cache is faster
F1_OF_ALL, F1_OF_EACH = "F1 over all labels", "F1, mean of the labels"


class MultiLabel(OneFigure, OfLogits):
    """Truths are uint8 [N, K] of 0 and 1; the output is float32 logits [N, K]; answers are those logits."""

    name = "multi-label"
    metric = Metric(
        "mean average precision",
        "mAP",
        each="average precision",
        beside=(F1_OF_ALL, F1_OF_EACH),
        agreement="share of the test images' labels that the teacher's fp32 ONNX file answers alike",
    )
    purpose = "multi-label classification"
    answer = "all above 0"
    refusal = "takes each image to be of one class, compares boxes, or reads the class of each pixel"
    same = "same answer to {share} of the labels"

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        check_logits(labels, shapes)
        meaning = "logits: above 0 the image has the label; the sigmoid of each gives its share"
        return (Output("logits", (len(labels),), meaning),)

    def check(self, truth: np.ndarray, source: str) -> None:
        if truth.ndim != 2:
            got, hint = "one label an image", "task: classification, or a source of label sets such as image-labels"
            raise UsageError("This task learns sets of labels.", where=source, got=got, hint=hint)

    def decisions(self, outputs: Outputs) -> Decisions:
        logits = outputs[0]
        return Decisions(logits > 0, 2 * np.abs(logits))

    def answers(self, outputs: Outputs) -> np.ndarray:
        return outputs[0].astype(np.float32)

    def score(self, outputs: Outputs, truth: np.ndarray) -> float:
        found = [ap for ap in average_precisions(outputs[0], truth) if ap is not None]
        return float(np.mean(found)) if found else 0.0

    def details(self, outputs: Outputs, truth: np.ndarray) -> dict[str, float]:
        has, right = truth.astype(bool), outputs[0] > 0
        both, said, there = (has & right).sum(0), right.sum(0), has.sum(0)
        each = 2 * both / np.maximum(said + there, 1)
        return {
            F1_OF_ALL: 100.0 * float(2 * both.sum() / max(said.sum() + there.sum(), 1)),
            F1_OF_EACH: 100.0 * float(each[there > 0].mean()) if there.any() else 0.0,
        }

    def right(self, answers: np.ndarray, truth: np.ndarray) -> None:
        return None

    def resampled(self, answers: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weighted_precision(answers, truth, weights)

    def agreement(self, mine: np.ndarray, theirs: np.ndarray) -> float:
        return 100.0 * float(np.equal(mine > 0, theirs > 0).mean())

    def by_label(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"label": label, "n": int(n), "score": ap}
            for label, n, ap in zip(labels, truth.sum(0), average_precisions(answers, truth), strict=True)
        ]

    def confusion(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> None:
        return None

    def warnings(
        self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str], parent: np.ndarray | None = None
    ) -> list[str]:
        """That all images get the same labels, or that they might as well be ranked alike; and the labels that no
        image that has them gets."""
        has, given, found = truth.astype(bool), answers > 0, list[str]()
        if (has == has[0]).all():
            return []
        alike = self.score((np.zeros_like(answers),), truth)
        if self.score((answers,), truth) <= alike:
            found.append(f"is no better than ranking all images alike ({alike:.1f} %)")
        if (given == given[0]).all():
            found.append(f"gives the same labels to every image: {self.named(given[0], labels)}")
        else:
            theirs = None if parent is None else (has & (parent > 0)).sum(0)
            if none := unanswered(labels, has.sum(0), (has & given).sum(0), theirs):
                found.append(f"is right for no image of {some(none)}")
        known = [] if parent is None else self.warnings(parent, truth, labels)
        return [line for line in found if line not in known]

    def sample(self, outputs: Outputs, truth: np.ndarray, numbers: np.ndarray) -> int:
        found = self.decisions(self.renumbered(outputs, numbers))
        right = (found.taken == truth.astype(bool)).mean(1)
        return int(np.lexsort((found.margin.min(1), right))[-1])

    def named(self, row: np.ndarray, labels: Sequence[str]) -> str:
        return ", ".join(label for label, there in zip(labels, row, strict=True) if there) or "none"

    def said(self, outputs: Outputs, labels: Sequence[str]) -> str:
        return self.named(outputs[0][0] > 0, labels)

    def noise(self, score: float, images: int) -> None:
        return None

    def loss(self, answer: Tensor, y: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
        """Binary cross-entropy, averaged over images and labels; ``smoothing`` moves both targets towards 0.5."""
        import torch.nn.functional as F

        targets = y.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits_in(answer)[: len(y)].float(), targets)

    def rows(self, logits: Tensor, y: Tensor | None = None) -> Tensor:
        """The distribution of each label, has it or not, is a row of its own: [N * K, 2] of (logit, 0), whose softmax
        is (sigmoid, 1 - sigmoid). kd is the divergence of Bernoulli variables then, at its temperature."""
        import torch

        return torch.stack([logits, torch.zeros_like(logits)], 2).flatten(0, 1)

    def takes(self, needs: Needs) -> bool:
        return not (needs.one_label or needs.boxes or needs.class_maps)


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> list[float | None]:
    """Of each label in per cent, None where no image has it: the mean, over the images that have the label, of the
    precision among those that score at least as much (without interpolation). ``scores`` [N, K], ``truth`` [N, K]."""
    found: list[float | None] = []
    for column, there in zip(scores.T, truth.T.astype(bool), strict=True):
        if not there.any():
            found.append(None)
            continue
        order = np.argsort(-column, kind="stable")
        ranked, values = np.cumsum(there[order]), column[order]
        last = np.searchsorted(-values, -values[there[order]], side="right") - 1  # of those that score the same
        found.append(100.0 * float(np.mean(ranked[last] / (last + 1))))
    return found


def weighted_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of ``average_precisions`` in per cent, float64 [B], where each image is there as often as ``weights``
    int [B, N] say."""
    total, labels = np.zeros(len(weights)), np.zeros(len(weights))
    for column, there in zip(scores.T, truth.T.astype(bool), strict=True):
        order = np.argsort(-column, kind="stable")
        values, has = column[order], np.flatnonzero(there[order])
        last = np.searchsorted(-values, -values[has], side="right") - 1
        ends = (
            np.searchsorted(has, last, side="right") - 1
        )  # of those that have the label, the last that scores the same
        for rows in np.array_split(np.arange(len(weights)), max(1, weights.size // BLOCK)):
            often = weights[rows][:, order].astype(np.float64)
            mine, every = often[:, has], np.cumsum(often, 1)[:, last]
            share = np.divide(np.cumsum(mine, 1)[:, ends], every, out=np.zeros_like(mine), where=every > 0)
            count = mine.sum(1)
            total[rows] += np.divide((mine * share).sum(1), count, out=np.zeros(len(rows)), where=count > 0)
            labels[rows] += count > 0
    return 100.0 * np.divide(total, labels, out=total, where=labels > 0)


tasks.register("multi-label")(MultiLabel())
