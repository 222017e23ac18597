"""One label an image: the largest logit is the answer, or of two classes what a threshold says. Accuracy is the figure,
or another that looks at all classes alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress.artifact import Output, margin_at
from kdcompress.data.truth import of_each
from kdcompress.errors import UsageError, some, unknown_name
from kdcompress.task import Blind, Calibration, Confusion, Metric, Outputs, Threshold, unanswered
from kdcompress.tasks import tasks
from kdcompress.tasks._calibration import reliability
from kdcompress.tasks._figures import OF_COUNTS, Counts, area, areas, counts, log_odds
from kdcompress.tasks._of_logits import Decisions, OfLogits, check_logits, logits_in
from kdcompress.tasks._threshold import HALF, best

if TYPE_CHECKING:
    from torch import Tensor

    from kdcompress.task import Needs

ACCURACY, BALANCED, F1, AUROC = "accuracy", "balanced-accuracy", "f1", "auroc"
METRICS = {
    ACCURACY: Metric("accuracy", "acc"),
    BALANCED: Metric("balanced accuracy", "bal. acc", each="recall"),
    F1: Metric("macro F1", "F1", each="F1"),
    AUROC: Metric("AUROC", "AUROC", each="AUROC against the rest"),
}


class Classification(OfLogits):
    """Truths are class numbers, int64 [N]; the output is float32 logits [N, K]. Answers are class numbers, int32, or
    where they are judged ``by`` AUROC float32 [N, K], the log-odds of each class, of which the largest is the answer.

    ``threshold``: of two classes, the share (softmax) of the second above which it is the answer; None: a half.
    """

    name = "classification"
    metrics: Mapping[str, Metric] = METRICS
    purpose = "classification"
    refusal = "compares boxes, or reads the class of each pixel"
    same = "same arg max on {share} of the images"

    def __init__(self, by: str = ACCURACY, threshold: float | None = None):
        self.by, self.threshold, self.metric = by, threshold, METRICS[by]
        self.answer = "the largest" if threshold is None else "the second where its share is above the threshold"

    def judging(self, metric: str | None = None, threshold: float | None = None) -> Classification:
        if metric is not None and metric not in METRICS:
            raise unknown_name("metric", metric, METRICS, where="metric")
        return Classification(metric or self.by, self.threshold if threshold is None else threshold)

    def renumbering(self, numbers: np.ndarray) -> Classification:
        if self.threshold is None or numbers[0] == 0:
            return self
        return Classification(self.by, 1 - self.threshold)

    def decided_by_threshold(self, labels: Sequence[str]) -> bool:
        return len(labels) == 2

    def threshold_for(self, outputs: Outputs, truth: np.ndarray) -> Threshold:
        """For the figure itself; for balanced accuracy where that is AUROC, which no threshold changes."""
        by = BALANCED if self.by == AUROC else self.by
        logits = outputs[0].astype(np.float64)
        share, there, at_half = best(logits[:, 1] - logits[:, 0], truth, OF_COUNTS[by])
        return Threshold(share, len(truth), METRICS[by].name, 100.0 * there, 100.0 * at_half)

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        check_logits(labels, shapes)
        return (Output.logits(len(labels)),)

    def check(self, truth: np.ndarray, source: str) -> None:
        if truth.ndim != 1:
            got, hint = "sets of labels", "task: multi-label, or a source with one label per image"
            raise UsageError("A classifier learns one label per image.", where=source, got=got, hint=hint)

    # Judged on arrays

    def decisions(self, outputs: Outputs) -> Decisions:
        logits = self._decisive(outputs[0].reshape(len(outputs[0]), -1))  # of a file from elsewhere: the first there is
        ranked = np.sort(logits, axis=1)
        margin = ranked[:, -1] - ranked[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf)
        return Decisions(logits.argmax(1), margin)

    def _decisive(self, logits: np.ndarray) -> np.ndarray:
        """Logits whose largest is the answer: the second of two is lower by what it must be above the first."""
        if self.threshold is None or logits.shape[1] != 2:
            return logits
        return logits - np.array([0.0, margin_at(self.threshold)])

    def answers(self, outputs: Outputs) -> np.ndarray:
        logits = self._decisive(outputs[0])
        return log_odds(logits).astype(np.float32) if self.by == AUROC else logits.argmax(1).astype(np.int32)

    def score(self, outputs: Outputs, truth: np.ndarray) -> float:
        return self._score(self.answers(outputs), truth)

    def _score(self, answers: np.ndarray, truth: np.ndarray) -> float:
        if self.by == ACCURACY:
            return 100.0 * int((answers == truth).sum()) / len(truth)  # 57 of 100 are 57, as a limit is
        return 100.0 * float(
            area(answers, truth)[0] if self.by == AUROC else OF_COUNTS[self.by](_counts(answers, truth))
        )

    def details(self, outputs: Outputs, truth: np.ndarray) -> dict[str, float]:
        return {"calibration error": reliability(outputs[0], truth).error}

    def calibration(self, outputs: Outputs, truth: np.ndarray) -> Calibration:
        found = reliability(outputs[0], truth)
        bins = [(int(n), float(sure / n), float(right / n)) for n, sure, right, _ in zip(*found, strict=True) if n]
        return Calibration(found.error, bins)

    def blind(self, truth: np.ndarray, labels: Sequence[str]) -> Blind | None:
        images = of_each(truth, len(labels))
        if np.count_nonzero(images) < 2:
            return None
        most, alike = int(images.argmax()), np.zeros((len(truth), len(labels)), np.float32)
        alike[:, most] = 1.0
        answers = self.judging(threshold=HALF).answers((alike,))
        return Blind(answers, self._score(answers, truth), f"always answering '{labels[most]}'")

    def right(self, answers: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
        return answers == truth if self.by == ACCURACY else None

    def resampled(self, answers: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self.by == ACCURACY:
            return 100.0 * (weights @ (answers == truth).astype(np.int64)) / weights.sum(1)
        return 100.0 * (
            area(answers, truth, weights) if self.by == AUROC else OF_COUNTS[self.by](_counts(answers, truth, weights))
        )

    def agreement(self, mine: np.ndarray, theirs: np.ndarray) -> float:
        return 100.0 * float(np.equal(_decided(mine), _decided(theirs)).mean())

    def by_label(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        right, said, there = (each.tolist() for each in counts(_decided(answers), truth, len(labels)))
        rows = []
        for k, label in enumerate(labels):
            precision, recall, f1 = _share(right[k], said[k]), _share(right[k], there[k]), None
            if there[k]:
                f1 = 200.0 * right[k] / (said[k] + there[k])
            score = {F1: f1, AUROC: _area_of(answers, truth, k) if self.by == AUROC else None}.get(self.by, recall)
            row = {"label": label, "n": int(there[k]), "score": score}
            rows.append({**row, "precision": precision, "recall": recall, "answered": int(said[k])})
        return rows

    def confusion(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Confusion:
        count = len(labels)
        table = np.bincount(truth * count + _decided(answers), minlength=count**2).reshape(count, -1)
        return Confusion(list(labels), table.tolist())

    def warnings(
        self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str], parent: np.ndarray | None = None
    ) -> list[str]:
        """That there is one answer to all images, or that one answer to all would score as much; and the labels that
        are never answered right."""
        images, decided, blind = of_each(truth, len(labels)), _decided(answers), self.blind(truth, labels)
        if blind is None:
            return []
        if (decided == decided[0]).all():
            share = 100.0 * images[decided[0]] / len(truth)
            found = [f"answers every image with '{labels[decided[0]]}', which is right for {share:.1f} % of them"]
        else:
            found = list[str]()
            if self._score(answers, truth) <= blind.score:
                found.append(f"is no better than {blind.what} ({blind.score:.1f} %)")
            right = of_each(truth[decided == truth], len(labels))
            theirs = None if parent is None else of_each(truth[_decided(parent) == truth], len(labels))
            if none := unanswered(labels, images, right, theirs):
                found.append(f"is right for no image of {some(none)}")
        known = [] if parent is None else self.warnings(parent, truth, labels)
        return [line for line in found if line not in known]

    def sample(self, outputs: Outputs, truth: np.ndarray, numbers: np.ndarray) -> int:
        found = self.renumbering(numbers).decisions(self.renumbered(outputs, numbers))
        return int(np.where(found.taken == truth, found.margin, -np.inf).argmax())

    def named(self, row: np.ndarray, labels: Sequence[str]) -> str:
        return labels[int(row)]

    def said(self, outputs: Outputs, labels: Sequence[str]) -> str:
        return labels[int(self._decisive(outputs[0])[0].argmax())]

    def noise(self, score: float, images: int) -> float | None:
        if self.by != ACCURACY:
            return None
        share = score / 100
        return 196 * math.sqrt(2 * share * (1 - share) / images)

    # Trained

    def loss(self, answer: Tensor, y: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy, averaged over the images. ``y``: class numbers, or float32 [B, K] shares of classes. With
        ``weights`` the loss of each image, smoothed as it is, counts that of its class times."""
        import torch.nn.functional as F

        logits = logits_in(answer)[: len(y)].float()
        if weights is None:
            return F.cross_entropy(logits, y, label_smoothing=smoothing)
        shares = (F.one_hot(y, len(weights)) if y.ndim == 1 else y) * weights
        spread = shares.sum(1, keepdim=True) / len(weights)
        return F.cross_entropy(logits, (1 - smoothing) * shares + smoothing * spread)

    def rows(self, logits: Tensor, y: Tensor | None = None) -> Tensor:
        return logits

    def takes(self, needs: Needs) -> bool:
        return not (needs.boxes or needs.class_maps)


def _decided(answers: np.ndarray) -> np.ndarray:
    """Class numbers [N]."""
    return answers if answers.ndim == 1 else answers.argmax(1)


def _counts(answers: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Counts:
    return counts(answers, truth, int(max(answers.max(), truth.max())) + 1, weights)


def _share(part: float, whole: float) -> float | None:
    return 100.0 * part / whole if whole else None


def _area_of(odds: np.ndarray, truth: np.ndarray, label: int) -> float | None:
    found = float(areas(odds[:, label], truth == label, np.ones((1, len(truth)), np.uint16))[0])
    return None if math.isnan(found) else 100.0 * found


tasks.register("classification")(Classification())
