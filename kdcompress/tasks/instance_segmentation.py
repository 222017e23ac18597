"""Objects in an image, each as a mask with a label. Average precision of masks, as COCO defines it, is the figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress.artifact import Output
from kdcompress.average_precision import AveragePrecision
from kdcompress.boxes import Detections
from kdcompress.data.outlined import Outlined, codes, pixels
from kdcompress.data.truth import Truth
from kdcompress.errors import UsageError
from kdcompress.optional import require
from kdcompress.resampled_precision import hits, precision
from kdcompress.segments import INSIDE, SHARE, WAYS, Segments, segmented, way_of
from kdcompress.task import Outputs, Pictures, Size
from kdcompress.tasks import tasks
from kdcompress.tasks._found import MOST, packed, precision_of, unpacked
from kdcompress.tasks.detection import Detection

if TYPE_CHECKING:
    from kdcompress.task import Needs


class InstanceSegmentation(Detection):
    """Truths are objects with masks (``data.outlined.Outlined``); the outputs are a detector's, and behind them what
    masks are made of (``segments.WAYS``): coefficients [N, P, C], and prototypes [N, C, h, w] at a quarter of the
    input's height and width; or masks [N, P, h, w] of the boxes' own cells. Answers are [N] records: "found" float32
    [100, 6] as of a detector, "masks" COCO's codes of theirs, a space between two, and "size" int32 [2], height and
    width of the masks. Those are exact."""

    name = "instance-segmentation"
    metric = replace(
        Detection.metric,
        name="mask AP",
        beside=("AP50", "AP75", "box AP"),
        parts_note="Small: a mask of less than 32 x 32 pixels of the network's input. Large: 96 x 96 or more.",
        agreement=Detection.metric.agreement.replace("boxes overlap", "masks overlap"),
        after="masks",
        inside=False,
    )
    truth = "masks"
    network = "model: yolact/BACKBONE makes a segmenter of a network"
    purpose = "instance segmentation"
    hub_tag = "image-segmentation"
    refusal = Detection.refusal.replace(", or reads", ", compares distributions of boxes' sides, or reads")
    program = "instance_segmenter"
    answer = (
        "boxes that score enough, without those that overlap a better one of their label, each with a mask: where it "
        "is surer than 0.5 of the object"
    )

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        way = way_of(shapes)
        if way is None:
            allowed = (", ".join(f"{name} [N, {sides}]" for name, (sides, _) in each.outputs.items()) for each in WAYS)
            raise UsageError(
                "The network gives no masks.",
                got=", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in shapes),
                allowed=f"boxes [N, P, 4], scores [N, P, {len(labels)}], and {', or '.join(allowed)}",
                hint=self.network,
            )
        further = zip(way.outputs.items(), shapes[2:], strict=True)
        return (
            *super().outputs(labels, shapes[:2]),
            *(Output(name, shape, meaning) for (name, (_, meaning)), shape in further),
        )

    def comparable(self, expected: Outputs, got: Outputs) -> tuple[Outputs, Outputs]:
        return expected, got

    def takes(self, needs: Needs) -> bool:
        return super().takes(needs) and not needs.sides  # no segmenter here has distributions of them

    def check(self, truth: Truth, source: str) -> None:
        if not isinstance(truth, Outlined):
            got, hint = "no masks", "task: detection, or a source of masks such as coco"
            raise UsageError("A segmenter learns masks.", where=source, got=got, hint=hint)
        require("faster_coco_eval", "detection", "Average precision")

    def found(self, outputs: Outputs, score: float = 0.05, size: Size | None = None) -> Iterator[Segments]:
        return (segmented(*each, size=size, score=score, most=MOST) for each in zip(*outputs, strict=True))

    def kept(self, outputs: Outputs, size: Size | None = None) -> Outputs:
        each, texts, sizes = [], [], []
        for found in self.found(outputs, size=size):  # one image's masks at a time
            each.append(Detections(found.boxes, found.labels, found.scores))
            texts.append(b" ".join(codes(found.masks)))
            sizes.append(found.masks.shape[1:])
        return packed(each), np.array(texts, np.bytes_), np.array(sizes, np.int32).reshape(-1, 2)

    def answers(self, outputs: Outputs) -> np.ndarray:
        found, masks, size = outputs
        kind = np.dtype([("found", "<f4", found.shape[1:]), ("masks", masks.dtype), ("size", "<i4", (2,))])
        made = np.zeros(len(found), kind)
        made["found"], made["masks"], made["size"] = found, masks, size
        return made

    def rows_of(self, answers: np.ndarray) -> np.ndarray:
        rows: np.ndarray = answers["found"]
        return rows

    def unpacked(self, answers: np.ndarray, least: float = 0.0) -> Sequence[Segments]:
        return Unpacked(answers, least)

    def judged(self, answers: np.ndarray, truth: Truth) -> AveragePrecision:
        return precision_of(answers["found"], truth, [each.split() for each in answers["masks"].tolist()])

    def resampled(self, answers: np.ndarray, truth: Truth, weights: np.ndarray) -> np.ndarray:
        masks = [each.split() for each in answers["masks"].tolist()]
        return precision(hits(list(unpacked(answers["found"])), truth, masks), weights)

    def details(self, outputs: Outputs, truth: Truth) -> dict[str, float]:
        boxes = precision_of(outputs[0], truth).ap
        return super().details(outputs, truth) | ({} if boxes is None else {"box AP": boxes})

    def pictures(self, images: Any, truth: Truth, files: Mapping[str, np.ndarray], labels: Sequence[str]) -> Pictures:
        found = super().pictures(images, truth, files, labels)
        return replace(found, note=found.note.replace("the box overlaps", "the mask overlaps"))

    def expected(self, outputs: Outputs, precision: str, size: Size | None = None) -> dict[str, Any]:
        found = super().expected(outputs, precision)
        (segments,) = self.found(outputs, found["score"], size)
        for each, mask in zip(found["detections"], segments.masks, strict=True):
            each["mask"] = runs(mask)
        is_now = found["tolerance_is"].replace("a box overlaps", "a mask overlaps")
        masks_are = "lengths of what is outside and inside in turns, row by row, in pixels of the model's input"
        return found | {"tolerance_is": is_now, "masks_are": masks_are}

    def reading(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return super().reading(data) | {"masks": {"share": SHARE, "inside": INSIDE}}


class Unpacked(Sequence[Segments]):
    """Of each image, what scores above ``least`` in its answer; masks become pixels when they are looked at."""

    def __init__(self, answers: np.ndarray, least: float):
        self.answers, self.least = answers, least

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, place: Any) -> Any:
        row = self.answers[place]
        (found,) = unpacked(row["found"][None], self.least)
        size = row["size"].tolist()
        masks = pixels(row["masks"].split()[: len(found)], (size[0], size[1]))  # the surest are the first
        return Segments(found.boxes, found.labels, found.scores, masks.astype(bool))


def runs(mask: np.ndarray) -> list[int]:
    """The lengths of what is outside and inside of a mask bool [H, W] in turns, row by row."""
    line = np.concatenate([[False], mask.reshape(-1), [not mask.reshape(-1)[-1]]])
    return np.diff(np.flatnonzero(line[1:] != line[:-1]), prepend=0).tolist()


tasks.register("instance-segmentation")(InstanceSegmentation())
