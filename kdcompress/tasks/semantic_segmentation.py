"""A class for each pixel. The mean intersection over union of the classes is the figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress import segmented
from kdcompress.artifact import CLASSES, Output
from kdcompress.class_maps import IGNORED, LABELS, classes_of, counted, near, overlaps, runs
from kdcompress.data.maps import are_maps
from kdcompress.errors import UsageError, some
from kdcompress.task import TOLERANCE, Confusion, Matched, Metric, OneFigure, Outputs, Panel, Pictures, Size, unanswered
from kdcompress.tasks import tasks

if TYPE_CHECKING:
    from torch import Tensor

    from kdcompress.task import Needs

PIXELS, EACH = "pixel accuracy", "mean accuracy of the classes"
STRIDE = 8  # pixels from one place to the next where methods compare logits
SEEN = 0.01  # of an image: a class that covers less is not named
SAMPLED = 32  # places of a sample whose logits a bundle's program compares
ALIKE = {"fp32": 0.999, "fp16": 0.995, "int8": 0.9}  # of a sample's places, at least, have the expected class
HINT = "model: lraspp/BACKBONE makes a segmenter of a network"


class SemanticSegmentation(OneFigure):
    """Truths are class maps, uint8 [N, H, W] (``data.maps``). The output is float32 logits [N, K, h, w], which are
    enlarged to the image's size, or the class of each pixel, float32 [N, H, W]. Answers are uint8 [N, H, W]."""

    name = "semantic-segmentation"
    metric = Metric(
        "mean IoU",
        "mIoU",
        each="IoU",
        beside=(PIXELS,),
        counted="pixels",
        agreement="share of the test images' pixels that get the same class from the teacher's fp32 ONNX file",
        after="upsampling",
    )
    truth = "maps"
    purpose = "semantic segmentation"
    hub_tag = "image-segmentation"
    program = "segmenter"
    answer = "for each pixel the class with the largest logit, once the logits are as large as the image (bilinear)"
    refusal = "takes each image to be of one class, compares boxes, or needs a feature that is pooled over the image"
    int8_agreement = 0.9

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        if len(labels) > LABELS:
            raise UsageError("A class map tells no more labels apart.", got=len(labels), allowed=LABELS)
        if len(shapes) == 1 and len(shapes[0]) == 2:
            return (Output(CLASSES, shapes[0], "the number of each pixel's class"),)
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] != len(labels):
            raise UsageError(
                "The network gives no class maps.",
                got=", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in shapes),
                allowed=f"logits [N, {len(labels)}, h, w]",
                hint=HINT,
            )
        meaning = "logits of each place: enlarged to the image (bilinear), the largest is the pixel's class"
        return (Output("logits", shapes[0], meaning),)

    def finished(self, outputs: Sequence[Output]) -> None:
        return None

    def outside(self, outputs: Sequence[Output]) -> str:
        return "" if outputs[0].decided else self.metric.after

    def check(self, truth: np.ndarray, source: str) -> None:
        if not are_maps(truth):
            hint = "a source of class maps, such as mask-folder"
            raise UsageError("A segmenter learns the class of each pixel.", where=source, got="no masks", hint=hint)

    def comparable(self, expected: Outputs, got: Outputs) -> tuple[Outputs, Outputs]:
        return expected, got

    def matched(self, expected: Outputs, got: Outputs, relative: float) -> Matched:
        """Of class numbers nobody knows how near a tie was. Near ties are at the borders of classes: there a share of
        ``relative`` of all pixels may be of the class beyond."""
        logits, what = expected[0], "same class at {share} of the places"
        if logits.ndim == 3:
            theirs, mine = (classes_of(outputs[0]) for outputs in (expected, got))
            strictly = float(np.mean(theirs == mine))
            ties = min(float(np.mean((theirs != mine) & near(theirs, mine))), relative)
            return Matched(min(strictly + ties, 1.0), strictly, what, numbers=False)
        alike = classes_of(logits) == classes_of(got[0])
        ranked = np.partition(logits, -2, axis=1)[:, -2:]
        slack = relative * (float(np.abs(logits).max()) or 1.0)
        tie = (ranked[:, 1] - ranked[:, 0] <= 2 * slack) & (slack > 0)
        return Matched(float(np.mean(alike | tie)), float(np.mean(alike)), what)

    def kept(self, outputs: Outputs, size: Size | None = None) -> Outputs:
        return (classes_of(outputs[0], size),)

    def answers(self, outputs: Outputs) -> np.ndarray:
        return outputs[0]

    def score(self, outputs: Outputs, truth: np.ndarray) -> float:
        found = overlaps(_counted(outputs[0], truth))
        return 100.0 * float(np.nanmean(found)) if not np.isnan(found).all() else 0.0

    def details(self, outputs: Outputs, truth: np.ndarray) -> dict[str, float]:
        table = _counted(outputs[0], truth)
        right, there = np.diagonal(table), table.sum(1)
        each = right[there > 0] / there[there > 0]
        return {
            PIXELS: 100.0 * float(right.sum() / max(there.sum(), 1)),
            EACH: 100.0 * float(each.mean()) if len(each) else 0.0,
        }

    def right(self, answers: np.ndarray, truth: np.ndarray) -> None:
        return None

    def resampled(self, answers: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
        labels = _labels_in(answers, truth)
        tables = (counted(answers[i : i + 1], truth[i : i + 1], labels) for i in range(len(truth)))
        each = np.array([(np.diagonal(table), table.sum(0) + table.sum(1)) for table in tables], np.float64)
        both, sums = np.moveaxis((weights @ each.reshape(len(each), -1)).reshape(len(weights), 2, labels), 1, 0)
        there = sums > 0
        found = np.divide(both, sums - both, out=np.zeros_like(both), where=there)
        return 100.0 * found.sum(1) / np.maximum(there.sum(1), 1)

    def agreement(self, mine: np.ndarray, theirs: np.ndarray) -> float:
        return 100.0 * float(np.equal(mine, theirs).mean())

    def by_label(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """A class that is answered, and nowhere there, scores 0, as it counts in the mean."""
        table = counted(answers, truth, len(labels))
        rows = zip(labels, table.sum(1).tolist(), (100.0 * overlaps(table)).tolist(), strict=True)
        return [{"label": label, "n": n, "score": None if np.isnan(score) else score} for label, n, score in rows]

    def confusion(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Confusion:
        return Confusion(list(labels), counted(answers, truth, len(labels)).tolist(), "pixels of the test split")

    def curve(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> None:
        return None

    def pictures(
        self, images: Any, truth: np.ndarray, files: Mapping[str, np.ndarray], labels: Sequence[str]
    ) -> Pictures:
        note = (
            "Each class has a colour of its own, and a tag where it is. Grey in the truth: nobody is judged there. "
            "mIoU is that of this image's classes."
        )
        return Pictures(segmented.pictures(images, truth, files, labels), {}, note)

    def seen(self, image: np.ndarray, outputs: Outputs, labels: Sequence[str]) -> Panel:
        return segmented.panel("", image, self.kept(outputs, (image.shape[0], image.shape[1]))[0][0], labels)

    def warnings(
        self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str], parent: np.ndarray | None = None
    ) -> list[str]:
        """That all pixels get one class, that one class for all would be right as often, and the classes that no pixel
        gets rightly."""
        table, found = counted(answers, truth, len(labels)), list[str]()
        there, right, given = table.sum(1), np.diagonal(table), table.sum(0)
        if np.count_nonzero(there) < 2:
            return []
        most = int(there.argmax())
        if np.count_nonzero(given) == 1:
            found.append(f"answers every pixel with '{labels[int(given.argmax())]}'")
        else:
            if right.sum() <= there[most]:
                share = 100.0 * there[most] / there.sum()
                found.append(f"is right at no more pixels than '{labels[most]}' everywhere would be ({share:.1f} %)")
            theirs = None if parent is None else np.diagonal(counted(parent, truth, len(labels)))
            if none := unanswered(labels, there, right, theirs):
                found.append(f"is right at no pixel of {some(none)}")
        known = [] if parent is None else self.warnings(parent, truth, labels)
        return [line for line in found if line not in known]

    def labels_in(self, outputs: Outputs) -> int | None:
        return outputs[0].shape[1] if outputs[0].ndim == 4 else None

    def renumbered(self, outputs: Outputs, numbers: np.ndarray) -> Outputs:
        return (np.asarray(numbers).astype(np.uint8)[outputs[0]],)

    def sample(self, outputs: Outputs, truth: np.ndarray, numbers: np.ndarray) -> int:
        """Where there are two classes or more, to a per cent as many pixels as anywhere are right, and the largest
        logits lie the furthest ahead."""
        maps = self.renumbered(self.kept(outputs, truth.shape[1:]), numbers)[0]  # type: ignore[arg-type]
        best = []
        for logits, answer, real in zip(outputs[0], maps, truth, strict=True):
            judged = real != IGNORED
            right = float((answer == real)[judged].mean()) if judged.any() else 0.0
            ahead = np.partition(logits, -2, axis=0)[-2:] if logits.ndim == 3 else np.zeros((2, 1))
            best.append((len(np.unique(real[judged])) > 1, round(right, 2), float((ahead[1] - ahead[0]).mean())))
        return max(range(len(best)), key=best.__getitem__)

    def named(self, row: np.ndarray, labels: Sequence[str]) -> str:
        return _listed(row[row != IGNORED], labels)

    def said(self, outputs: Outputs, labels: Sequence[str]) -> str:
        return _listed(classes_of(outputs[0][:1]), labels)

    def expected(self, outputs: Outputs, precision: str, size: Size | None = None) -> dict[str, Any]:
        """``classes`` are runs of the class map at the output's size, row by row: [class, how many places], ...;
        ``logits`` those of a few ``places`` (row, column)."""
        logits = outputs[0]
        found: dict[str, Any] = {"classes": runs(classes_of(logits)[0]), "alike": ALIKE[precision]}
        if logits.ndim == 4:
            height, width = logits.shape[2:]
            chosen = np.unique(np.linspace(0, height * width - 1, SAMPLED).astype(np.int64))
            places = np.stack(np.divmod(chosen, width), 1)
            found["places"] = places.tolist()
            found["logits"] = logits[0][:, places[:, 0], places[:, 1]].T.astype(float).tolist()
            found["tolerance"] = TOLERANCE[precision] * float(np.abs(logits).max())
            found["tolerance_is"] = "the largest difference of a logit"
        return found

    def reading(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """``fit`` is how an image becomes one of the model's size."""
        return {"fit": data.get("fit") or "letterbox"}

    def noise(self, score: float, images: int) -> None:
        return None

    def loss(self, answer: Any, y: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy at the size of the class maps, averaged over the places that are not ignored."""
        if not hasattr(answer, "map"):
            raise UsageError("The network gives no class maps.", got="another answer", hint=HINT)
        found: Tensor = answer.loss(y, smoothing)
        return found

    def rows(self, logits: Tensor, y: Tensor | None = None) -> Tensor:
        """Of logits [N, h, w, K] each place that is not ignored in ``y`` uint8 [<= N, H, W] is a row, [M, K]: at 1 /
        ``STRIDE`` of the images' resolution, where they are enlarged to (bilinear), or averaged. Of images without a
        truth all places are. Where all places are ignored there is one row, of zeros."""
        import torch
        import torch.nn.functional as F

        if y is None or logits.ndim < 4:
            return logits.flatten(0, -2)
        grid = (-(-y.shape[-2] // STRIDE), -(-y.shape[-1] // STRIDE))
        maps = logits.permute(0, 3, 1, 2)
        if tuple(maps.shape[2:]) != grid:
            finer = maps.shape[2] > grid[0] or maps.shape[3] > grid[1]
            maps = F.adaptive_avg_pool2d(maps, grid) if finer else F.interpolate(maps.float(), grid, mode="bilinear")
        judged = torch.ones(len(maps), *grid, dtype=torch.bool, device=maps.device)
        if len(y):
            judged[: len(y)] = F.interpolate(y[:, None].float(), grid, mode="nearest-exact")[:, 0] != IGNORED
        rows = maps.permute(0, 2, 3, 1)[judged]
        return rows if len(rows) else maps.flatten(2)[0, :, :1].T * 0.0

    def takes(self, needs: Needs) -> bool:
        """Those that compare maps, or logits place by place. A segmenter has no pooled feature, nor a last map."""
        asked = needs.of("student") | needs.of("teacher") | needs.of("peers")
        maps = any(need.startswith("stages") for need in asked)
        return not (needs.one_label or needs.boxes) and "last" not in asked and (maps or "pooled" not in asked)


def _counted(answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The table of ``counted``, of those classes that are there or answered, and all before them."""
    return counted(answers, truth, _labels_in(answers, truth))


def _labels_in(answers: np.ndarray, truth: np.ndarray) -> int:
    there = int(truth.max(initial=0, where=truth != IGNORED))
    return 1 + max(there, int(answers.max(initial=0)))


def _listed(classes: np.ndarray, labels: Sequence[str]) -> str:
    """The labels that cover enough, in the order of their names."""
    counts = np.bincount(classes.reshape(-1), minlength=len(labels))
    return _joined(label for label, n in zip(labels, counts) if n and n >= SEEN * classes.size)


def _joined(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels)) or "nothing"


tasks.register("semantic-segmentation")(SemanticSegmentation())
