"""Average precision of detections as COCO defines it, by faster-coco-eval: what pycocotools computes, ten times faster.

At most 100 detections an image count. Precision is read at 101 recalls and averaged over them, over the labels that
have objects, and over the overlaps 0.5, 0.55, ... 0.95 at which a detection is right. What lies on a crowd counts
neither way. Areas are boxes', or masks', in pixels of the network's input: small below 32 x 32, large from 96 x 96.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcompress.boxes import Detections
from kdcompress.data.objects import BOX, CLASS, CROWD, KIND, NOTHING, OBJECT
from kdcompress.data.outlined import code
from kdcompress.data.truth import Truth
from kdcompress.optional import require

AREAS = {"small": [0, 32**2], "medium": [32**2, 96**2], "large": [96**2, 1e10]}


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """All in per cent, None where there is no such object. ``ap`` is the mean over overlaps, ``ap50`` and ``ap75`` are
    at one; ``small``, ``medium`` and ``large`` are means over overlaps, of objects of that size. ``by_label`` has the
    ``ap`` of each label, ``objects`` how many there are of it, without crowds.

    ``precision`` float64 [K, 101], 0 to 1, is that of each label at the ``recalls`` [101], 0 to 1, where an overlap of
    0.5 is right: the best at that recall or above it; nan for a label without objects."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    by_label: tuple[float | None, ...]
    objects: tuple[int, ...]
    recalls: np.ndarray
    precision: np.ndarray


def average_precision(
    found: Sequence[Detections], truth: Truth, labels: int, masks: Sequence[Sequence[bytes]] | None = None
) -> AveragePrecision:
    """Of the detections in N images. ``truth`` float32 [N, M, 6] is as in ``data.objects``; ``labels`` is the number of
    labels K. With ``masks``, those of the detections as in ``data.outlined``, whose size is the truth's, overlaps are
    those of masks.

    Raises RuntimeMissingError where faster-coco-eval is not installed."""
    judge = judged(found, truth, labels, masks)
    judge.accumulate()
    precision = judge.eval["precision"][..., 0]  # overlaps, recalls, labels, areas
    objects = np.asarray(truth)
    counts = np.bincount(objects[objects[..., KIND] == OBJECT][:, CLASS].astype(np.int64), minlength=labels)
    half = precision[0, :, :, 0].T
    return AveragePrecision(
        ap=mean(precision[..., 0]),
        ap50=mean(precision[0, ..., 0]),
        ap75=mean(precision[5, ..., 0]),
        small=mean(precision[..., 1]),
        medium=mean(precision[..., 2]),
        large=mean(precision[..., 3]),
        by_label=tuple(mean(precision[:, :, k, 0]) for k in range(labels)),
        objects=tuple(counts.tolist()),
        recalls=np.asarray(judge.params.recThrs, np.float64),
        precision=np.where(half > -1, half, np.nan),
    )


def judged(
    found: Sequence[Detections], truth: Truth, labels: int, masks: Sequence[Sequence[bytes]] | None = None
) -> Any:
    """faster-coco-eval's judge, once it has looked at every image: its ``ious`` are those of detections with objects,
    by (image, label). Arguments as those of ``average_precision``."""
    coco = require("faster_coco_eval", "detection", "Average precision")
    if len(found) != len(truth):
        raise ValueError(f"{len(found)} images with detections, {len(truth)} with truth")
    objects = np.asarray(truth)
    real = objects[..., KIND] != NOTHING
    rows, image = objects[real].astype(np.float64), np.nonzero(real)[0]
    told = np.concatenate([rows[:, CLASS], *(each.labels for each in found)])
    if not ((told >= 0) & (told < labels)).all():
        raise ValueError(f"labels are 0 to {labels - 1}, not {told.min():g} to {told.max():g}")
    there = [
        entry(i, row[BOX], row[CLASS], iscrowd=int(row[KIND] == CROWD)) for i, row in zip(image.tolist(), rows.tolist())
    ]
    named = [
        entry(i, box, label, score=score)
        for i, each in enumerate(found)
        for box, label, score in zip(each.boxes.tolist(), each.labels.tolist(), each.scores.tolist())
    ]
    images: list[dict[str, int]] = [{"id": i} for i in range(len(found))]
    if masks is not None:
        height, width = truth.masks.size
        images = [each | {"height": height, "width": width} for each in images]
        add_masks(there, truth.codes(), truth.masks.size)
        add_masks(named, [code for each in masks for code in each], truth.masks.size)
    names = [{"id": i} for i in range(labels)]

    def listed(entries: list[dict[str, Any]]) -> Any:
        annotations = [{"id": 1 + i} | each for i, each in enumerate(entries)]  # an id of 0 would count as no match
        dataset = {"images": images, "categories": names, "annotations": annotations}
        return coco.COCO(dataset, print_function=quiet)

    kind = "bbox" if masks is None else "segm"
    judge = coco.COCOeval_faster(listed(there), listed(named), kind, ranges=AREAS, print_function=quiet)
    judge.params.maxDets = [100]
    judge.evaluate()
    return judge


def entry(image: int, box: list[float], label: float, iscrowd: int = 0, **others: float) -> dict[str, Any]:
    """A box as COCO's files have it."""
    x1, y1, x2, y2 = box
    size = [x2 - x1, y2 - y1]
    place = {"image_id": image, "category_id": int(label), "bbox": [x1, y1, *size], "area": size[0] * size[1]}
    return place | {"iscrowd": iscrowd} | others


def add_masks(entries: list[dict[str, Any]], masks: Sequence[bytes], size: Sequence[int]) -> None:
    """To entries their masks, of which they have their areas then."""
    found = [{"size": list(size), "counts": each} for each in masks]
    areas = code().area(found) if found else []
    for each, mask, area in zip(entries, found, areas, strict=True):
        each |= {"segmentation": mask, "area": float(area)}


def mean(precision: np.ndarray) -> float | None:
    """In per cent, over the cells that have objects; None where none has."""
    cells = precision[precision > -1]
    return 100.0 * float(cells.mean()) if len(cells) else None


def quiet(*_: Any) -> None:
    pass
