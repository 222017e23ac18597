"""Objects in an image, as boxes with a label each. Average precision, as COCO defines it, is the figure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress import detected
from kdcompress.artifact import Output
from kdcompress.average_precision import AveragePrecision
from kdcompress.boxes import Detections, suppressed
from kdcompress.data.maps import are_maps
from kdcompress.data.objects import CLASS, KIND, OBJECT
from kdcompress.data.truth import Truth, of_each
from kdcompress.errors import UsageError, some
from kdcompress.matching import Matching, f1, matched
from kdcompress.optional import require
from kdcompress.resampled_precision import hits, precision
from kdcompress.task import (
    TOLERANCE,
    Confusion,
    Curve,
    Matched,
    Metric,
    OneFigure,
    Outputs,
    Panel,
    Pictures,
    Size,
    unanswered,
)
from kdcompress.tasks import tasks
from kdcompress.tasks._found import MOST, SCORE, packed, precision_of, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from kdcompress.task import Needs

SURE = 0.3  # a score that counts as an answer, where there is only yes or no
SAME, NEAR = 0.9, 0.5  # overlaps at which two files' boxes are the same: of equal precision, and of int8
APART = 0.25  # scores that differ by more are not those of one network
BACKGROUND = "background"  # in a confusion: no object, or none found
SIZES = {f"AP, {size} objects": size for size in ("small", "medium", "large")}


class Detection(OneFigure):
    """Truths are objects, float32 [N, M, 6] (``data.objects``); the outputs are boxes [N, P, 4] and scores [N, P, K];
    answers are float32 [N, 100, 6], rows (x1, y1, x2, y2, label, score) by descending score, score 0 for none."""

    name = "detection"
    metric = Metric(
        "box AP",
        "AP",
        each="AP",
        beside=("AP50", "AP75"),
        parts=tuple(SIZES),
        parts_title="Size of objects",
        parts_note="Small: a box below 32 x 32 pixels of the network's input. Large: from 96 x 96 on.",
        counted="objects",
        agreement=f"share of the detections above {SURE:g} that the teacher's fp32 ONNX file has too, where the boxes "
        f"overlap by {NEAR:g} or more",
        after="suppression",
        inside=True,
    )
    truth = "objects"
    network = "model: fcos/BACKBONE makes a detector of a network"
    purpose = "object detection"
    hub_tag = "object-detection"
    program = "detector"
    answer = "boxes that score enough, without those that overlap a better one of their label"
    refusal = (
        "takes each image to be of one class, needs a feature that is pooled over the image, or reads the class of "
        "each pixel"
    )
    int8_agreement = 0.9

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        if [len(shape) for shape in shapes] != [2, 2] or [shape[1] for shape in shapes] != [4, len(labels)]:
            raise UsageError(
                "The network gives no detections.",
                got=", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in shapes),
                allowed=f"boxes [N, P, 4] and scores [N, P, {len(labels)}]",
                hint=self.network,
            )
        places = shapes[0][0]
        meanings = "x1, y1, x2, y2 in pixels of the input", "0 to 1 for each label, boxes that overlap still in"
        return Output("boxes", (places, 4), meanings[0]), Output("scores", (places, len(labels)), meanings[1])

    def finished(self, outputs: Sequence[Output]) -> tuple[Output, ...] | None:
        if len(outputs) != 2:
            return None
        most = min(MOST, math.prod(outputs[1].shape))
        best, chosen = "of the best, by descending score", outputs[0].chosen
        return (
            Output("boxes", (most, 4), f"x1, y1, x2, y2 in pixels of the input, {best}", chosen=chosen),
            Output("scores", (most,), "0 to 1; 0: nothing more was found", chosen=chosen),
            Output("labels", (most,), "numbers of labels, from 0", chosen=chosen),
        )

    def outside(self, outputs: Sequence[Output]) -> str:
        return "" if [output.name for output in outputs] == ["boxes", "scores", "labels"] else self.metric.after

    def check(self, truth: Truth, source: str) -> None:
        if truth.ndim != 3 or are_maps(truth):
            got, hint = "other labels than boxes", "task: classification, or a source of boxes such as coco"
            raise UsageError("A detector learns boxes.", where=source, got=got, hint=hint)
        require("faster_coco_eval", "detection", "Average precision")

    def comparable(self, expected: Outputs, got: Outputs) -> tuple[Outputs, Outputs]:
        """Places are the same in two networks' outputs. Of a file that suppresses by itself, the detections that belong
        together are compared."""
        if len(got) != 3:
            return expected, got
        score = enough(expected[1])
        both = [list(detections(outputs, score)) for outputs in (expected, got)]
        pairs = [(*pair, matched(*pair, overlap=NEAR, most=MOST).pairs) for pair in zip(*both, strict=True)]
        mine, theirs = (_by_image([(each[k].boxes, each[k].scores, each[2][:, k]) for each in pairs]) for k in range(2))
        return mine, theirs

    def matched(self, expected: Outputs, got: Outputs, relative: float) -> Matched:
        score = enough(expected[1])
        options: dict[str, Any] = {"overlap": SAME if relative else NEAR, "score": score, "most": MOST}
        found = [
            [_alike(*pair, **options, tolerance=tolerance) for tolerance in (2 * relative, 0.0)]
            for pair in zip(self.found(expected, score), self.found(got, score), strict=True)
        ]
        share, strictly = (f1(each[k] for each in found) for k in (0, 1))
        return Matched(share, strictly, "{share} of the detections found by both")

    def kept(self, outputs: Outputs, size: Size | None = None) -> Outputs:
        return (packed(self.found(outputs)),)

    def found(self, outputs: Outputs, score: float = 0.05, size: Size | None = None) -> Iterator[Detections]:
        """Of each image, what a file's outputs find; ``size``: of the images, for answers that are as large."""
        return detections(outputs, score)

    def answers(self, outputs: Outputs) -> np.ndarray:
        return outputs[0]

    def rows_of(self, answers: np.ndarray) -> np.ndarray:
        """What is said of boxes, float32 [N, 100, 6]."""
        return answers

    def unpacked(self, answers: np.ndarray, least: float = 0.0) -> Sequence[Detections]:
        """Of each image: those that score above ``least``."""
        return list(unpacked(answers, least))

    def judged(self, answers: np.ndarray, truth: Truth) -> AveragePrecision:
        return precision_of(answers, truth)

    def score(self, outputs: Outputs, truth: Truth) -> float:
        return self.judged(self.answers(outputs), truth).ap or 0.0

    def details(self, outputs: Outputs, truth: Truth) -> dict[str, float]:
        found = self.judged(self.answers(outputs), truth)
        named = {"AP50": found.ap50, "AP75": found.ap75}
        named |= {name: getattr(found, size) for name, size in SIZES.items()}
        return {name: value for name, value in named.items() if value is not None}

    def right(self, answers: np.ndarray, truth: Truth) -> None:
        return None

    def resampled(self, answers: np.ndarray, truth: Truth, weights: np.ndarray) -> np.ndarray:
        return precision(hits(list(unpacked(answers)), truth), weights)

    def agreement(self, mine: np.ndarray, theirs: np.ndarray) -> float:
        pairs = zip(self.unpacked(mine, SURE), self.unpacked(theirs, SURE), strict=True)
        return 100.0 * f1(matched(*pair, overlap=NEAR, score=SURE, most=MOST) for pair in pairs)

    def by_label(self, answers: np.ndarray, truth: Truth, labels: Sequence[str]) -> list[dict[str, Any]]:
        found = self.judged(answers, truth)
        known = dict(enumerate(zip(found.objects, found.by_label, strict=True)))
        rows = [(label, *known.get(k, (0, None))) for k, label in enumerate(labels)]
        return [{"label": label, "n": n, "score": ap} for label, n, ap in rows]

    def confusion(self, answers: np.ndarray, truth: Truth, labels: Sequence[str]) -> Confusion:
        table = detected.confusion(self.unpacked(answers, SURE), truth, len(labels))
        note = (
            f"Of detections that score above {SURE:g}. Each is the object that it overlaps most, by half their union "
            f"at least, whatever its label. '{BACKGROUND}' as the answer: an object that is not found. As the truth: a "
            "detection where no object is."
        )
        return Confusion([*labels, BACKGROUND], table.tolist(), "objects of the test split", note)

    def curve(self, answers: np.ndarray, truth: Truth, labels: Sequence[str]) -> Curve | None:
        """Precision at each recall, the mean over the labels that have objects, where an overlap of 0.5 is right."""
        found = self.judged(answers, truth)
        there = found.precision[~np.isnan(found.precision).any(1)]
        if not len(there):
            return None
        note = (
            "A detection is right where it overlaps an object of its label by half of their union or more. The mean of "
            "all classes. Up and to the right is better."
        )
        points = list(zip(found.recalls.round(2).tolist(), there.mean(0).round(4).tolist(), strict=True))
        return Curve(points, "recall", "precision", "Precision and recall", note)

    def pictures(self, images: Any, truth: Truth, files: Mapping[str, np.ndarray], labels: Sequence[str]) -> Pictures:
        found = {name: self.unpacked(answers, SURE) for name, answers in files.items()}
        key = {"truth": "truth", "right": "right", "wrong": "wrong", "missed": "not found"}
        note = (
            "Right: the box overlaps an object of its label by half of their union or more. Numbers are scores in per "
            f"cent. What scores {100 * SURE:.0f} or less is not shown."
        )
        return Pictures(detected.pictures(images, truth, found, labels), key, note)

    def seen(self, image: np.ndarray, outputs: Outputs, labels: Sequence[str]) -> Panel:
        size = image.shape[0], image.shape[1]
        return detected.seen(image, next(iter(self.found(outputs, enough(outputs[1]), size))), labels)

    def warnings(
        self, answers: np.ndarray, truth: Truth, labels: Sequence[str], parent: np.ndarray | None = None
    ) -> list[str]:
        """That nothing is found in any image; and the labels that no box has, however unsure."""
        given, objects = _given(self.rows_of(answers), len(labels)), of_each(truth, len(labels))
        if not given.any() and objects.any():
            found = ["finds nothing in any image"]
        else:
            theirs = None if parent is None else _given(self.rows_of(parent), len(labels))
            none = unanswered(labels, objects, given, theirs)
            found = [f"finds no object of {some(none)}"] if none else []
        known = [] if parent is None else self.warnings(parent, truth, labels)
        return [line for line in found if line not in known]

    def labels_in(self, outputs: Outputs) -> None:
        return None

    def renumbered(self, outputs: Outputs, numbers: np.ndarray) -> Outputs:
        answers = outputs[0].copy()
        answers[..., CLASS] = numbers[answers[..., CLASS].astype(np.int64)]
        answers[answers[..., SCORE] == 0] = 0
        return (answers, *outputs[1:])

    def sample(self, outputs: Outputs, truth: Truth, numbers: np.ndarray) -> int:
        """Where something is found, steadily; then the right labels; then the scores that are the furthest from what
        is enough."""
        best = []
        for boxes, scores, row in zip(*outputs[:2], np.asarray(truth), strict=True):
            score = enough(scores)
            found = suppressed(boxes, scores, score=score / 2, most=MOST)
            sure = numbers[found.labels[found.scores > score]]
            right = Counter(sure.tolist()) == Counter(_labels_of(row))
            margin = float(np.abs(found.scores - score).min(initial=1.0))
            best.append((len(sure) > 0, steady(boxes, scores, score), right, margin))
        return max(range(len(best)), key=best.__getitem__)

    def named(self, row: Truth, labels: Sequence[str]) -> str:
        return _listed(labels[k] for k in _labels_of(np.asarray(row)))

    def said(self, outputs: Outputs, labels: Sequence[str]) -> str:
        found = next(self.found(outputs, SURE))
        return _listed(labels[k] for k in found.labels.tolist())

    def expected(self, outputs: Outputs, precision: str, size: Size | None = None) -> dict[str, Any]:
        score = enough(outputs[1])
        found = next(self.found(outputs, score))
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        return {
            "detections": [{"label": label, "score": value, "box": box} for label, value, box in rows],
            "score": score,
            "overlap": NEAR if precision == "int8" else SAME,
            "tolerance": TOLERANCE[precision] * float(outputs[1].max(initial=0.0)),
            "tolerance_is": "the largest difference of a score; a box overlaps its partner by at least `overlap`",
        }

    def reading(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """``fit`` is how an image becomes one of the model's size; ``suppression`` is how the score was measured;
        boxes that score less than ``shown`` aren't shown."""
        suppression = dict(suppressed.__kwdefaults__ or {}) | {"most": MOST}
        return {"fit": data.get("fit") or "letterbox", "suppression": suppression, "shown": SURE}

    def noise(self, score: float, images: int) -> None:
        return None

    def loss(self, answer: Any, y: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
        """The detector's own. Label smoothing is none of it."""
        if not hasattr(answer, "loss"):
            got = "the logits of a classifier"
            raise UsageError("The network gives no detections.", got=got, hint=self.network)
        found: Tensor = answer.loss(y)
        return found

    def rows(self, logits: Tensor, y: Tensor | None = None) -> Tensor:
        """Each label at each place is a distribution of its own, there or not: [N * P * K, 2] of (logit, 0)."""
        import torch

        return torch.stack([logits, torch.zeros_like(logits)], -1).flatten(0, -2)

    def takes(self, needs: Needs) -> bool:
        """Those that compare maps, or logits place by place. A detector has no pooled feature, nor a last map."""
        asked = needs.of("student") | needs.of("teacher") | needs.of("peers")
        maps = any(need.startswith("stages") for need in asked)
        return not (needs.one_label or needs.class_maps) and "last" not in asked and (maps or "pooled" not in asked)


def enough(scores: np.ndarray) -> float:
    """The score that counts as an answer: of a network that nobody trained, all are low."""
    return min(SURE, 0.5 * float(scores.max(initial=0.0)))


def steady(boxes: np.ndarray, scores: np.ndarray, score: float) -> bool:
    """Whether the same is found in an image where suppression begins at another overlap, and, eight times, where all
    scores differ by as much as those of fp16 may."""
    off, rng = TOLERANCE["fp16"], np.random.default_rng(0)
    found = suppressed(boxes, scores, score=score, most=MOST)
    shaken = [(scores * (1 + rng.uniform(-off, off, scores.shape)), 0.6) for _ in range(8)]
    others = (
        suppressed(boxes, each, score=score, iou=limit, most=MOST)
        for each, limit in ((scores, 0.5), (scores, 0.7), *shaken)
    )
    tolerance = off * float(scores.max(initial=0.0))
    return not any(
        any(matched(found, other, overlap=SAME, score=score, most=MOST, tolerance=tolerance).alone) for other in others
    )


def detections(outputs: Outputs, score: float = 0.05) -> Iterator[Detections]:
    """Of each image: what boxes [N, P, 4] and scores [N, P, K] find, or what a file that suppresses by itself has
    found: boxes [N, D, 4], scores [N, D] and labels [N, D], score 0 for none."""
    if len(outputs) == 3:
        return (
            Detections(boxes[scores > score], labels[scores > score].astype(np.int64), scores[scores > score])
            for boxes, scores, labels in zip(*outputs, strict=True)
        )
    return (suppressed(boxes, scores, score=score, most=MOST) for boxes, scores in zip(*outputs, strict=True))


def _by_image(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Outputs:
    """Of boxes, scores and which of these, of each image: as arrays, zeros where there are fewer."""
    boxes, scores = np.zeros((len(rows), MOST, 4), np.float32), np.zeros((len(rows), MOST), np.float32)
    for i, (box, score, index) in enumerate(rows):
        boxes[i, : len(index)], scores[i, : len(index)] = box[index], score[index]
    return boxes, scores


def _alike(mine: Detections, theirs: Detections, **options: float) -> Matching:
    """Those that belong together and are about as sure."""
    found = matched(mine, theirs, **options)  # type: ignore[arg-type]
    apart = np.abs(mine.scores[found.pairs[:, 0]] - theirs.scores[found.pairs[:, 1]]) > APART
    count = int(apart.sum())
    return Matching(found.pairs[~apart], (found.alone[0] + count, found.alone[1] + count))


def _given(answers: np.ndarray, labels: int) -> np.ndarray:
    """How many boxes have each label, int64 [labels]."""
    return np.bincount(answers[answers[..., SCORE] > 0][:, CLASS].astype(np.int64), minlength=labels)


def _labels_of(row: np.ndarray) -> list[int]:
    there = row[row[:, KIND] == OBJECT]
    return sorted(there[:, CLASS].astype(np.int64).tolist())


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(f"{count} {label}" for label, count in sorted(Counter(labels).items())) or "nothing"


tasks.register("detection")(Detection())
