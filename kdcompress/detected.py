"""Detections held to the truth: which are right, what is missed, what is taken for what, and pictures of all that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kdcompress.boxes import Detections
from kdcompress.data.objects import BOX, CLASS, CROWD, KIND, OBJECT
from kdcompress.data.outlined import Outlined
from kdcompress.data.truth import Truth
from kdcompress.drawing import Mark, picture
from kdcompress.matching import matched
from kdcompress.picking import LOST, WON, Chosen, picked
from kdcompress.segments import Segments, shared
from kdcompress.task import Panel, Picture

OVERLAP = 0.5
WRONG = 5  # wrong detections that are drawn of an image, the best; all are counted
NAMED = 4  # labels in a caption


@dataclass(frozen=True, eq=False)
class Held:
    """What is found in an image, with its ``objects``: ``of`` int64 [D] is the object that each detection is, -1 for
    none."""

    found: Detections
    objects: Detections
    of: np.ndarray
    counts: np.ndarray  # bool [D]: not what lies on a crowd, and is no object

    @cached_property
    def seen(self) -> np.ndarray:
        """Which objects are found, bool [m]."""
        seen = np.zeros(len(self.objects), bool)
        seen[self.of[self.of >= 0]] = True
        return seen

    def light(self) -> Held:
        """Without masks."""
        found, objects = (Detections(each.boxes, each.labels, each.scores) for each in (self.found, self.objects))
        return replace(self, found=found, objects=objects)

    @property
    def right(self) -> int:
        return int(self.seen.sum())

    @property
    def missed(self) -> int:
        return int((~self.seen).sum())

    @property
    def wrong(self) -> int:
        return int((self.counts & (self.of < 0)).sum())

    @property
    def f1(self) -> float:
        """Twice the objects found, over these and all that are missed or wrong; 1 where there is nothing of all."""
        both = 2 * self.right
        return both / (both + self.missed + self.wrong) if both + self.missed + self.wrong else 1.0


def held(found: Detections, row: Truth, *, labelled: bool = True) -> Held:
    """The detections of an image, against its truth [M, 6]: each, from the best score on, is the object that it
    overlaps most, by 0.5 at least, of those that no better one is. ``labelled``: only objects of its label."""
    objects, crowds = marked(row, OBJECT), marked(row, CROWD)

    def plain(each: Detections) -> Detections:
        labels = each.labels if labelled else np.zeros(len(each), np.int64)
        return replace(each, labels=labels, scores=np.ones(len(each), np.float32))

    pairs = matched(plain(found), plain(objects), overlap=OVERLAP).pairs
    of = np.full(len(found), -1, np.int64)
    of[pairs[:, 0]] = pairs[:, 1]
    on = covered(found, crowds) >= OVERLAP
    if labelled:
        on &= found.labels[:, None] == crowds.labels
    return Held(found, objects, of, (of >= 0) | ~on.any(1))


def marked(row: Truth, kind: int) -> Detections:
    """The objects of one kind in an image's truth [M, 6], with their masks, if they have any."""
    chosen = row[np.asarray(row)[:, KIND] == kind]
    objects = np.asarray(chosen)
    plain = objects[:, BOX], objects[:, CLASS].astype(np.int64), np.ones(len(objects), np.float32)
    return Segments(*plain, chosen.drawn().astype(bool)) if isinstance(chosen, Outlined) else Detections(*plain)


def covered(found: Detections, places: Detections) -> np.ndarray:
    """The share of each of A that lies in each of B places, of boxes or of masks: [A, B], 0 to 1."""
    if isinstance(found, Segments) and isinstance(places, Segments):
        both = shared(found.masks, places.masks)
    else:
        boxes, others = found.boxes, places.boxes
        width = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
        height = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
        both = np.maximum(width, 0) * np.maximum(height, 0)
    own = found.areas()[:, None]
    return np.divide(both, own, out=np.zeros_like(both), where=own > 0)


def confusion(each: Iterable[Detections], truth: Truth, labels: int) -> np.ndarray:
    """How often an object of each label has a detection of each, int64 [labels + 1, labels + 1] (true, answered). The
    last row are detections that are no object, the last column objects that are not found."""
    table = np.zeros((labels + 1, labels + 1), np.int64)
    for found, row in zip(each, truth, strict=True):
        judged = held(found, row, labelled=False)
        true = judged.objects.labels
        hit = judged.of >= 0
        np.add.at(table, (true[judged.of[hit]], found.labels[hit]), 1)
        np.add.at(table, (true[~judged.seen], labels), 1)
        np.add.at(table, (labels, found.labels[~hit & judged.counts]), 1)
    return table


def pictures(
    images: Any, truth: Truth, files: Mapping[str, Sequence[Detections]], labels: Sequence[str]
) -> list[Picture]:
    """Of a few images, the truth and what each file finds. ``images`` uint8 [N, H, W, C], an array or kept in a file;
    the first file is the one that the others are compared with."""
    judged = {name: [held(*pair).light() for pair in zip(found, truth, strict=True)] for name, found in files.items()}
    shown = []
    for title, what, i in chosen(judged):
        here = {name: held(found[i], truth[i]) for name, found in files.items()}
        shown.append(Picture(title, what, i, panels(images[i], truth[i], here, labels)))
    return shown


def chosen(judged: Mapping[str, Sequence[Held]]) -> Chosen:
    """Of equal images the first in the split."""
    names, (reference, *others) = list(judged), judged.values()
    shown = (others or [reference])[-1]
    there = [i for i, each in enumerate(shown) if len(each.objects)]
    reasons = []
    if others:
        lost = {i: int((reference[i].seen & ~np.any([each[i].seen for each in others], 0)).sum()) for i in there}
        won = {i: int((~reference[i].seen & np.all([each[i].seen for each in others], 0)).sum()) for i in there}
        gain = {i: float(np.mean([each[i].f1 for each in others])) - reference[i].f1 for i in there}
        several = len(others) > 1
        none = f"neither {' nor '.join(names[1:])} does" if several else f"{names[1]} does not"
        all_find = f"{' and '.join(names[1:])} {'find' if several else 'finds'}"
        most_lost = sorted((i for i in there if lost[i]), key=lambda i: (-lost[i], gain[i]))
        most_won = sorted((i for i in there if won[i]), key=lambda i: (-won[i], -gain[i]))
        reasons = [
            ("Most lost", f"{names[0]} finds objects that {none}.", most_lost, LOST),
            ("Most won", f"{all_find} objects that {names[0]} does not.", most_won, WON),
        ]
    return picked(reasons, sorted(there, key=lambda i: shown[i].f1), names[-1])


def panels(image: np.ndarray, row: Truth, files: Mapping[str, Held], labels: Sequence[str]) -> tuple[Panel, ...]:
    """The truth of an image, and what each file finds in it."""
    objects = marked(row, OBJECT)
    names = [labels[k] for k in objects.labels.tolist()]
    real = marks(objects, ["truth"] * len(objects), names)
    made = [Panel("truth", listed(names, 2 * NAMED), picture(image, real))]
    for name, each in files.items():
        said = [labels[k] for k in each.found.labels.tolist()]
        texts = [f"{label} {100 * score:.0f}" for label, score in zip(said, each.found.scores.tolist(), strict=True)]
        found = marks(each.found, ["right" if of >= 0 else "wrong" for of in each.of.tolist()], texts)
        right, wrong = ([mark for mark in found if mark.kind == kind] for kind in ("right", "wrong"))
        missed = marks(each.objects, ["missed"] * len(each.objects), [""] * len(each.objects))
        lost = [mark for mark, seen in zip(missed, each.seen.tolist(), strict=True) if not seen]
        made.append(Panel(name, listed(said), picture(image, right + wrong[:WRONG] + lost), verdict(each)))
    return tuple(made)


def marks(each: Detections, kinds: Sequence[Any], texts: Sequence[str]) -> list[Mark]:
    masks = each.masks if isinstance(each, Segments) else [None] * len(each)
    rows = zip(each.boxes.tolist(), kinds, texts, masks, strict=True)
    return [Mark(tuple(box), kind, text, mask) for box, kind, text, mask in rows]


def seen(image: np.ndarray, found: Detections, labels: Sequence[str], most: int = 20) -> Panel:
    """What is found in an image whose truth is not known, the ``most`` sure drawn."""
    said = [labels[k] for k in found.labels.tolist()]
    texts = [f"{label} {100 * score:.0f}" for label, score in zip(said, found.scores.tolist(), strict=True)]
    drawn = marks(found, ["right"] * len(found), texts)[:most]
    return Panel("", listed(said), picture(image, drawn), f"the {most} surest are drawn" if len(found) > most else "")


def verdict(each: Held) -> str:
    """ "2 of 3 found, 8 wrong (5 drawn)"."""
    found = f"{each.right} of {len(each.objects)} found" if len(each.objects) else ""
    wrong = f"{each.wrong} wrong" if each.wrong else ""
    wrong += f" ({WRONG} drawn)" if each.wrong > WRONG else ""
    return ", ".join(filter(None, (found, wrong)))


def listed(labels: Iterable[str], most: int = NAMED) -> str:
    """ "2 bags, 1 shirt", the most frequent first, and how many others there are."""
    counted = sorted(Counter(labels).items(), key=lambda each: (-each[1], each[0]))
    named = counted if len(counted) <= most else counted[: most - 1]
    said = [f"{count} {label if count == 1 else plural(label)}" for label, count in named]
    others = sum(count for _, count in counted[len(named) :])
    return ", ".join([*said, f"{others} others"] if others else said) or "nothing"


def plural(label: str) -> str:
    """Of an English noun as labels have it; others stay as they are."""
    irregular = {"person": "people", "man": "men", "woman": "women", "child": "children", "knife": "knives"}
    *before, last = label.split(" ")
    english = last.isascii() and last.isalpha() and last[1:].islower()
    if not english or last == "sheep" or (last.endswith("s") and not last.endswith(("ss", "us"))):
        return label
    if last.lower() in irregular:
        last = irregular[last.lower()]
    elif last.endswith(("ss", "us", "sh", "ch", "x", "z")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join((*before, last))
