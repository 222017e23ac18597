"""The images of a source as a teacher sees them that has an input of its own: other colours, more pixels, or another
picture of each (supervision transfer; Gupta et al., CVPR 2016, arXiv:1507.00448).

Splits, their order and what is right for each image are the student's. The student's images are what they would be
without such a teacher; the teacher's are read beside them, each set by its own size and colours, and kept as all images
are (kept.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdcompress.data.decode import File, read_images
from kdcompress.data.fit import frame_of
from kdcompress.data.image import SUFFIXES
from kdcompress.data.kept import Images, chosen
from kdcompress.data.listing import Passed, files_below
from kdcompress.data.source import described, in_channels, read, root_of, source_hash
from kdcompress.data.splits import Raw, Source, Split
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data, Input

WHERE = "teacher.input"
Rows = list[tuple[int, Images]]  # the first row, and the images from there on


def shown_to(asked: Input, data: Data, source: Source, truth: str = "") -> Source:
    """``source``, which ``load`` made of ``data``, with its images as a teacher sees them, and their mean and std.
    ``truth`` as of ``read``.

    Raises UsageError for a truth that is one of places in an image, for files that are missing or broken, and where the
    source has no such images.
    """
    if source.train.truth.ndim > 2:
        got, hint = "a truth of places in the image", f"leave {WHERE} out; teacher.size resizes what both see"
        what = "A teacher can see other images than the student where an image has labels."
        raise UsageError(what, where=WHERE, got=got, hint=hint)
    size = data.size if asked.size is None else asked.size
    channels = asked.channels or (None if asked.folder else data.channels)
    theirs = data.model_copy(update={"size": size, "channels": channels})
    found = paired(asked.folder, theirs) if asked.folder else as_read(read_for_it(theirs, truth))
    check_shape(source.train.images.shape, found[0][1].shape, asked, data)
    mine = {"training": source.train, "validation": source.validation, "test": source.test}
    splits = {name: taken(found, split) for name, split in mine.items()}
    mean, std, digest, _ = described(source.labels, splits)
    if not all(std):
        raise UsageError("Every pixel of a channel has the same value.", where=WHERE, got=f"mean {mean}")
    train, validation, test = splits.values()
    unlabelled = source.unlabelled
    if unlabelled is not None and unlabelled.rows is not None:
        nobodys = taken(found, Split(unlabelled.images, np.zeros(len(unlabelled.images), np.int64), unlabelled.rows))
        unlabelled = replace(unlabelled, images=nobodys.images, hash=source_hash((), [nobodys]))
    return replace(
        source,
        train=train,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        hash=digest,
        unlabelled=unlabelled,
        like=source.train.images.shape[1:],
    )


def read_for_it(data: Data, truth: str) -> Raw:
    try:
        return read(data, truth)
    except UsageError as error:
        if error.parts.get("where") != "data.channels":
            raise
        raise error.at(f"{WHERE}.channels") from error


def as_read(raw: Raw) -> Rows:
    """The images of what was read, by their rows."""
    found, start = [], 0
    for split in (raw.train, raw.validation, raw.test):
        if split is not None:
            found.append((start, split.images))
            start += len(split)
    return found


def taken(found: Rows, split: Split) -> Split:
    """A split with the images ``found`` for its rows, which are of one part; those of a file are not read."""
    assert split.rows is not None
    first = int(split.rows[0]) if len(split) else 0
    start, images = max((part for part in found if part[0] <= first), key=lambda part: part[0])
    return Split(chosen(images, split.rows - start), split.truth, split.rows)


def check_shape(mine: tuple[int, ...], theirs: tuple[int, ...], asked: Input, data: Data) -> None:
    """Raises UsageError for images [N, H, W, C] of the teacher that are not so large as asked for, or not of the shape
    of the student's: then a view of one would not be that of the other."""
    (height, width), (own_height, own_width) = mine[1:3], theirs[1:3]
    if asked.size is not None and (own_height, own_width) != frame_of(asked.size):
        raise UsageError(
            f"The images of {data.source} have one size, which is the student's too.",
            where=f"{WHERE}.size",
            got=asked.size,
            allowed=f"{own_height} x {own_width}",
            hint=f"leave {WHERE}.size out; teacher.size resizes what both see",
        )
    if height * own_width != width * own_height:
        raise UsageError(
            "The teacher's images and the student's differ in shape: one would not see what the other does.",
            where=f"{WHERE}.size",
            got=f"teacher {own_height} x {own_width}, student {height} x {width}",
            allowed="the same share of height to width",
            hint="give data.size and teacher.input.size as [height, width]",
        )


def paired(folder: Path, data: Data) -> Rows:
    """The picture in ``folder`` of each image of the source, in the order in which those are read.

    Raises UsageError with the images that have none, or several; what is left over in the folder is passed over.
    """
    from kdcompress.data.from_folder import ImageFolder

    if data.source != "image-folder":
        hint = f"leave {WHERE}.folder out"
        what = "Only images in a folder can have others in another folder."
        raise UsageError(what, where=f"{WHERE}.folder", got=f"source: {data.source}", allowed="image-folder", hint=hint)
    root, other = root_of(data, "the folder of the images"), folder.expanduser()
    if not other.is_dir():
        raise UsageError("The folder of the teacher's images is not there.", where=f"{WHERE}.folder", got=other)
    names = [name_in(root, path) for path in ImageFolder().listed(data).paths]
    there: dict[str, list[Path]] = {}
    for path in files_below(other, Passed()):
        if path.suffix.lower() in SUFFIXES:
            there.setdefault(name_in(other, path), []).append(path)
    missing = [name for name in names if name not in there]
    twice = {name for name, count in Counter(names).items() if count > 1}
    several = [name for name in names if name in twice or len(there.get(name, ())) > 1]
    if missing or several:
        left = sorted(set(there) - set(names))
        told = [f"{len(missing):,} of {len(names):,} have none: {some(missing, 20)}"] * bool(missing)
        told += [f"{len(several):,} share a path with others, here or there: {some(several, 20)}"] * bool(several)
        told += [f"{len(left):,} there belong to no image: {some(left, 20)}"] * bool(left)
        raise UsageError(
            "Each image needs one picture for the teacher, by the same path without its ending.",
            where=other,
            got="".join(f"\n    - {line}" for line in told),
            hint=f"add or rename files in {other}, or take the others out of {root}",
        )
    files = [File(there[name][0]) for name in names]
    images = in_channels(read_images(files, data.size, other, data.fit or "crop"), data.channels, other, WHERE)
    return [(0, images)]


def name_in(root: Path, path: Path) -> str:
    """The path of a file in a folder, without its ending."""
    return path.relative_to(root).with_suffix("").as_posix()
