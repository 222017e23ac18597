"""A look at a folder of images before anything is made of it: what it holds, how it is split, and what is wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcompress.data.decode import File, broken_files, decode, in_threads, read_header, reasons
from kdcompress.data.faults import faults, looks_whole
from kdcompress.data.from_folder import ImageFolder
from kdcompress.data.from_image_labels import TABLE, ImageLabels
from kdcompress.data.from_mask_folder import folders_of
from kdcompress.data.image import Header
from kdcompress.data.source import TEST, one_line, parted, sources
from kdcompress.data.splits import Listed, Source, Split
from kdcompress.data.truth import needs_each, of_each
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

HEADERS = 20_000  # of so many files at most: those of more are looked at evenly
DECODED = 256  # images to measure with, and
SECONDS = 6.0  # no longer than this for them
PATIENCE = 60.0  # seconds to look for more broken files, where there is one
TOGETHER = 256  # of them between looks at the clock
UNEVEN = 3.0  # the largest class over the smallest, from which it is told
FEW = 30  # images of a class, below which it is told
FAMILIES: dict[str, ImageFolder | ImageLabels] = {"image-folder": ImageFolder(), "image-labels": ImageLabels()}


@dataclass(frozen=True, eq=False)
class Survey:
    """``sizes`` int64 [files looked at, 2], width and height; ``truth``: what is right for the images of each split, as
    the recipe would make it."""

    data: Data
    listed: Listed
    truth: dict[str, np.ndarray]
    sizes: np.ndarray
    grey: int  # of the files that were looked at
    unreadable: dict[Path, str]  # why, of those

    @property
    def images(self) -> int:
        return len(self.listed.paths)

    @property
    def looked(self) -> int:
        return len(self.sizes) + len(self.unreadable)

    @property
    def channels(self) -> int:
        return 1 if self.grey == len(self.sizes) else 3

    @property
    def shorter(self) -> np.ndarray:
        return self.sizes.min(1)

    @property
    def one_size(self) -> tuple[int, int] | None:
        """Width and height, where all have the same."""
        return tuple(self.sizes[0].tolist()) if (self.sizes == self.sizes[0]).all() else None  # type: ignore[return-value]

    @property
    def exclusive(self) -> bool:
        """Whether each image has one label."""
        return needs_each(self.truth["training"])

    @property
    def counts(self) -> np.ndarray:
        """Images of each label, int64 [labels]."""
        return sum(of_each(truth, len(self.listed.labels)) for truth in self.truth.values())  # type: ignore[return-value]

    @property
    def largest(self) -> tuple[str, float]:
        """The label that most test images have, and their share in per cent: what to answer it always is right for."""
        test = of_each(self.truth["test"], len(self.listed.labels))
        return self.listed.labels[int(test.argmax())], 100.0 * float(test.max()) / len(self.truth["test"])

    @property
    def uneven(self) -> bool:
        return bool(self.counts.max() >= UNEVEN * max(self.counts.min(), 1))

    @property
    def unbalanced(self) -> bool:
        """Whether each image has one class, and the classes are of very unequal size."""
        return self.exclusive and self.uneven


def of_objects(root: Path) -> str | None:
    """The source of boxes whose layout this is; None where it is none of one."""
    known = ((name, getattr(sources[name], "laid_out", None)) for name in sources)
    return next((name for name, laid_out in known if laid_out and laid_out(root)), None)


def _for_another(root: Path, has: str, source: str, recipe: str, size: str) -> UsageError:
    """That a folder is for another task, and which recipe to begin with."""
    given = f"data: {{source: {source}, root: {root}, size: {size}}}"
    return UsageError(
        f"This folder {has}, and a first recipe is made for images with labels alone.",
        where=root,
        got=f"the layout of data.source {source}",
        hint=f"kdcompress init {recipe} -o mine.yaml, and in mine.yaml write {given}",
    )


def survey(root: Path) -> Survey:
    """Raises UsageError for a folder that cannot be learnt from, with what is wrong with it."""
    if folders_of(root):
        raise _for_another(root, "has masks of images", "mask-folder", "fashion-scenes-segmentation", "[256, 512]")
    data = Data(source="image-labels" if (root / TABLE).is_file() else "image-folder", root=root)
    try:
        listed = FAMILIES[data.source].listed(data)
    except UsageError as error:
        if name := of_objects(root):
            raise _for_another(root, "says where objects are", name, "fashion-scenes-detection", "320") from error
        hint = error.parts.pop("hint", None)
        error.parts.setdefault("allowed", f"CLASS/image.jpg, train/ val/ test/ that hold such folders, or {TABLE}")
        if hint:
            error.parts["hint"] = hint.replace(" as data.root", "")
        raise
    paths = listed.paths
    blank = np.zeros((len(paths), 1, 1, 1), np.uint8)
    splits, _ = parted(data, listed.raw(blank))  # which image is in which split depends on the labels alone
    looked = paths[:: -(-len(paths) // HEADERS)]
    headers = dict(zip(looked, in_threads(read_header, [File(path) for path in looked]), strict=True))
    unreadable = {path: header for path, header in headers.items() if isinstance(header, str)}
    ends = zip(looked, in_threads(looks_whole, looked), strict=True)
    unreadable |= faults([path for path, whole in ends if not whole and path not in unreadable])
    good = [header for path, header in headers.items() if isinstance(header, Header) and path not in unreadable]
    if not good:
        raise UsageError("No image can be read.", where=root, got=reasons(unreadable), hint="look at the files")
    return Survey(
        data,
        listed,
        {name: split.truth for name, split in splits.items()},
        np.array([(header.width, header.height) for header in good]),
        sum(header.grey for header in good),
        unreadable,
    )


def refusal(found: Survey, known: Mapping[Path, str]) -> UsageError:
    """The error that names all files that cannot be decoded: those that are ``known``, and what a look at the others
    finds in some time."""
    others = [path for path in found.listed.paths if path not in known]
    broken, begun, tried = dict(known), time.monotonic(), 0
    while tried < len(others) and time.monotonic() < begun + PATIENCE:
        broken |= faults(others[tried : tried + TOGETHER])
        tried += TOGETHER
    error = broken_files({path: broken[path] for path in found.listed.paths if path in broken}, found.listed.origin)
    if tried < len(others):
        error.parts["hint"] += f"; {len(others) - tried:,} files were not looked at, for time"
    return error


def facts(found: Survey) -> Iterator[tuple[str, str]]:
    """What a person wants to know, one line each: (what, in words)."""
    labels, counts = found.listed.labels, found.counts
    kind = "classes" if found.exclusive else "labels, any number an image"
    yield "images", f"{found.images:,} of {len(labels)} {kind}"
    order = np.argsort(-counts, kind="stable")
    shown = [f"{labels[k]} {counts[k]:,}" for k in order]
    most = 8
    ends = [*shown[: most - 2], "...", *shown[-2:]] if len(shown) > most else shown
    yield ("a class" if found.exclusive else "a label"), ", ".join(ends)
    parts = ", ".join(f"{name} {len(truth):,}" for name, truth in found.truth.items())
    held = [f"{share} for {name}" for name, share in held_back(found)]
    yield "splits", parts + (f" (held back from the training images: {', '.join(held)})" if held else "")
    yield "size", sizes_in_words(found)
    grey, colour = found.grey, len(found.sizes) - found.grey
    yield (
        "channels",
        "grey" if not colour else "colour" if not grey else f"{colour:,} colour, {grey:,} grey: all are read as colour",
    )
    kinds = Counter(path.suffix.lower().lstrip(".") for path in found.listed.paths)
    yield "files", ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())


def held_back(found: Survey) -> Iterator[tuple[str, str]]:
    """The splits that the folder has not of its own, and which share of the images each gets, in words."""
    whole = "test" in found.listed.files
    if not whole:
        yield "test", f"{100 * TEST:g} %"
    if "validation" not in found.listed.files:
        yield "validation", f"{100 * found.data.validation:g} %" + ("" if whole else " of the rest")


def sizes_in_words(found: Survey) -> str:
    if found.one_size:
        words = "{} x {} pixels, all".format(*found.one_size)
    else:
        each = (np.array([values.min(), np.median(values), values.max()]).astype(int) for values in found.sizes.T)
        wide, high = ("{} / {} / {}".format(*values) for values in each)
        words = f"width {wide}, height {high} pixels (smallest / median / largest)"
    return words + (f", of {found.looked:,} looked at" if found.looked < found.images else "")


def warnings(found: Survey) -> Iterator[str]:
    """What is wrong with the folder, or would be a surprise later."""
    yield from found.listed.notes
    labels, counts = found.listed.labels, found.counts
    label, share = found.largest
    if found.unreadable:
        yield f"unreadable: {len(found.unreadable):,} of {found.looked:,} files looked at{reasons(found.unreadable)}"
    if found.unbalanced:
        least = int(counts.argmin())
        largest = f"{labels[int(counts.argmax())]} has {counts.max():,} images"
        yield (
            f"unbalanced: {largest}, {labels[least]} {counts[least]:,}. To answer always {label} is right for"
            f" {share:.1f} % of the test images: look at the figures of each class"
        )
    if few := [f"{labels[k]} {counts[k]:,}" for k in np.argsort(counts, kind="stable") if counts[k] < FEW]:
        test = of_each(found.truth["test"], len(labels))
        least = int(test.min())
        tested = f"{least} test image{'s' * (least != 1)}"
        yield f"few images: {some(few)}. The class with the fewest has {tested}: its figures say little"
    if (test_images := len(found.truth["test"])) < 200:
        yield f"a small test split: one of its {test_images} images is {100 / test_images:.2g} points"
    if found.one_size is None and (large := int(found.shorter.max())) > 32 * (small := int(found.shorter.min())):
        yield f"very different sizes: the shorter sides are {small} to {large:,} pixels"


def sampled(found: Survey, side: int | None) -> tuple[Source, float]:
    """Some of the images, spread over the folder, as a source that is good for measuring speeds alone; and seconds that
    one takes to decode. Raises UsageError where any cannot be decoded, with all such files of the folder."""
    paths = [path for path in found.listed.paths if path not in found.unreadable]
    chosen = paths[:: -(-len(paths) // DECODED)]
    width, height = (side, side) if side else found.one_size or (0, 0)
    shape, jpegs = (height, width, found.channels), {}
    for path in chosen:
        header = read_header(File(path))
        jpegs[path] = isinstance(header, Header) and header.jpeg
    step, images, broken = 16, [], {}

    def one(path: Path) -> np.ndarray | str:
        try:
            return decode(File(path), shape, jpegs[path])
        except Exception as error:  # decoders raise many kinds
            return one_line(error)

    one(chosen[0])  # what decodes is loaded
    begun = time.perf_counter()
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        for path, image in zip(part, in_threads(one, part), strict=True):
            if isinstance(image, str):
                broken[path] = image
            else:
                images.append(image)
        if time.perf_counter() - begun > SECONDS:
            break
    if broken:
        raise refusal(found, broken)
    seconds = (time.perf_counter() - begun) / len(images)
    pixels = np.stack(images)
    train, few = len(found.truth["training"]), min(len(found.truth["validation"]), len(pixels))
    pixels = pixels[np.arange(min(train, DECODED)) % len(pixels)]  # as many as fill a batch
    labels = found.listed.labels
    truth = found.truth["training"][: len(pixels)]
    split = Split(pixels, truth)
    other = split.take(np.arange(min(few, len(pixels))))
    mean, std = (0.5,) * found.channels, (0.25,) * found.channels
    return Source(found.data.source, labels, split, other, other, mean, std, "", found.listed.origin), seconds


def summary(found: Survey) -> Sequence[tuple[str, str]]:
    return [*facts(found), *(("note", text) for text in warnings(found))]
