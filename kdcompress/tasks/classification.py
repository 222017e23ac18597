"""One label an image: the largest logit is the answer, and accuracy the figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress.artifact import Output
from kdcompress.data.truth import of_each
from kdcompress.errors import UsageError, some
from kdcompress.task import Confusion, Metric, Outputs, unanswered
from kdcompress.tasks import tasks
from kdcompress.tasks._of_logits import Decisions, OfLogits, check_logits, logits_in

if TYPE_CHECKING:
    from torch import Tensor

    from kdcompress.task import Needs


class Classification(OfLogits):
    """Truths are class numbers, int64 [N]; the output is float32 logits [N, K]; answers are class numbers, int32."""

    name = "classification"
    metric = Metric("accuracy", "acc")
    purpose = "classification"
    answer = "the largest"
    refusal = "compares boxes, or reads the class of each pixel"
    same = "same arg max on {share} of the images"

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        check_logits(labels, shapes)
        return (Output.logits(len(labels)),)

    def check(self, truth: np.ndarray, source: str) -> None:
        if truth.ndim != 1:
            got, hint = "sets of labels", "task: multi-label, or a source with one label per image"
            raise UsageError("A classifier learns one label per image.", where=source, got=got, hint=hint)

    def decisions(self, outputs: Outputs) -> Decisions:
        logits = outputs[0].reshape(len(outputs[0]), -1)  # of a file from elsewhere: the first there is
        ranked = np.sort(logits, axis=1)
        margin = ranked[:, -1] - ranked[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf)
        return Decisions(logits.argmax(1), margin)

    def answers(self, outputs: Outputs) -> np.ndarray:
        return outputs[0].argmax(1).astype(np.int32)

    def score(self, outputs: Outputs, truth: np.ndarray) -> float:
        return 100.0 * int((self.answers(outputs) == truth).sum()) / len(truth)  # 57 of 100 are 57, as a limit is

    def details(self, outputs: Outputs, truth: np.ndarray) -> dict[str, float]:
        return {"calibration error": calibration_error(outputs[0], truth)}

    def right(self, answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return answers == truth

    def resampled(self, answers: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return 100.0 * (weights @ self.right(answers, truth).astype(np.int64)) / weights.sum(1)

    def agreement(self, mine: np.ndarray, theirs: np.ndarray) -> float:
        return 100.0 * float(np.equal(mine, theirs).mean())

    def by_label(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        counts, right = (of_each(truth[where], len(labels)) for where in (slice(None), answers == truth))
        return [
            {"label": label, "n": int(n), "score": 100.0 * int(k) / int(n) if n else None}
            for label, n, k in zip(labels, counts, right, strict=True)
        ]

    def confusion(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Confusion:
        count = len(labels)
        table = np.bincount(truth * count + answers, minlength=count**2).reshape(count, -1)
        return Confusion(list(labels), table.tolist())

    def warnings(
        self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str], parent: np.ndarray | None = None
    ) -> list[str]:
        """That there is one answer to all images, or that one answer to all would be right as often; and the labels
        that are never answered right."""
        images = of_each(truth, len(labels))
        if np.count_nonzero(images) < 2:
            return []
        if (answers == answers[0]).all():
            share = 100.0 * images[answers[0]] / len(truth)
            found = [f"answers every image with '{labels[answers[0]]}', which is right for {share:.1f} % of them"]
        else:
            most, found = int(images.argmax()), []
            right = of_each(truth[answers == truth], len(labels))
            if right.sum() <= images[most]:
                share = 100.0 * images[most] / len(truth)
                found.append(f"is no better than always answering '{labels[most]}' ({share:.1f} %)")
            theirs = None if parent is None else of_each(truth[parent == truth], len(labels))
            if none := unanswered(labels, images, right, theirs):
                found.append(f"is right for no image of {some(none)}")
        known = [] if parent is None else self.warnings(parent, truth, labels)
        return [line for line in found if line not in known]

    def sample(self, outputs: Outputs, truth: np.ndarray, numbers: np.ndarray) -> int:
        found = self.decisions(self.renumbered(outputs, numbers))
        return int(np.where(found.taken == truth, found.margin, -np.inf).argmax())

    def named(self, row: np.ndarray, labels: Sequence[str]) -> str:
        return labels[int(row)]

    def said(self, outputs: Outputs, labels: Sequence[str]) -> str:
        return labels[int(outputs[0][0].argmax())]

    def noise(self, score: float, images: int) -> float:
        share = score / 100
        return 196 * math.sqrt(2 * share * (1 - share) / images)

    def loss(self, answer: Tensor, y: Tensor, smoothing: float) -> Tensor:
        """Cross-entropy, averaged over the images. ``y``: class numbers, or float32 [B, K] shares of classes."""
        import torch.nn.functional as F

        return F.cross_entropy(logits_in(answer)[: len(y)].float(), y, label_smoothing=smoothing)

    def rows(self, logits: Tensor, y: Tensor | None = None) -> Tensor:
        return logits

    def takes(self, needs: Needs) -> bool:
        return not (needs.boxes or needs.class_maps)


def calibration_error(logits: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in per cent: how far confidence and accuracy lie apart, in ``bins`` bins of equal
    width, averaged over the images (Guo et al., ICML 2017, equation 3). ``logits`` [N, K], ``truth`` int64 [N]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares = shifted / shifted.sum(1, keepdims=True)
    confidence, chosen = shares.max(1), shares.argmax(1)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64), 1, bins) - 1
    gap = (chosen == truth) - confidence
    return 100.0 * float(np.abs(np.bincount(place, gap, bins)).sum()) / len(truth)


tasks.register("classification")(Classification())
