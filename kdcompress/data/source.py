"""Named data sets: where their files are, and three splits of them that are the same on every machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from kdcompress.console import say_once
from kdcompress.data.fit import frame_of
from kdcompress.data.kept import Images, identified, remembered
from kdcompress.data.maps import are_maps
from kdcompress.data.recoloured import Recoloured, grey
from kdcompress.data.splits import SPLITS, Found, Raw, Source, Split
from kdcompress.data.truth import encoded, needs_each, of_each, replaced, strata
from kdcompress.errors import UsageError, some, without_addresses
from kdcompress.recipe import Data
from kdcompress.registry import Registry


class Family(Protocol):
    """What is registered under a source's name. One that has several kinds of truth reads the others by a method of
    that name: ``read_maps``."""

    def find(self, data: Data) -> Found: ...

    def read(self, data: Data) -> Raw: ...


SHOWN = 5  # names in an error
TEST = 0.2  # share of the images that is cut off as the test split, where there is none
sources: Registry[Family] = Registry("data source", "kdcompress.data", prefix="from_")


def default_root() -> Path:
    """Where data sets are looked for and downloaded to: $KDCOMPRESS_DATA, or ./datasets."""
    return Path(os.environ.get("KDCOMPRESS_DATA") or "datasets")


def root_of(data: Data, what: str) -> Path:
    """``data.root``, which is ``what``. Raises UsageError where it is not given, or cannot be looked at."""
    if data.root is None:
        raise UsageError(f"The source {data.source} needs data.root, {what}.")
    try:
        root = data.root.expanduser()
        root.is_dir()
    except (OSError, RuntimeError) as error:  # too long, in a closed folder, of an unknown user
        got = error.strerror if isinstance(error, OSError) else error
        raise UsageError("data.root cannot be looked at.", where=short(str(data.root)), got=got) from error
    return root


def short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def find(data: Data) -> Found:
    """Where the files would come from, without reading or downloading them.

    Raises UsageError for an unknown source, and for an image folder that is not there.
    """
    return sources[data.source].find(data)


def read(data: Data, truth: str = "") -> Raw:
    """What the source has, with the kind of ``truth`` that a task learns (``Task.truth``) where it has several."""
    family = sources[data.source]
    raw = getattr(family, f"read_{truth}", family.read)(data)
    for name in SPLITS if data.channels else ():
        if (split := getattr(raw, name)) is not None:
            setattr(raw, name, replace(split, images=in_channels(split.images, data.channels, raw.origin)))
    if raw.targets is not None:
        raw.targets = in_channels(raw.targets, data.channels, raw.origin)
    return raw


def in_channels(images: Images, channels: int | None, origin: object, where: str = "data") -> Images:
    """The images, of a file unread, with so many channels; None: as they are. Raises UsageError where grey ones are to
    have colours."""
    if channels in (None, images.shape[-1]):
        return images
    if channels == 3:
        raise UsageError(
            "The images are grey, and no colours can be made of that.",
            where=f"{where}.channels",
            got=f"3, for the images of {origin}",
            hint=f"leave {where}.channels out",
        )
    return grey(images) if isinstance(images, np.ndarray) else Recoloured(images, 1)


def load(data: Data, truth: str = "") -> Source:
    """The source that ``data`` asks for, read (or downloaded) and split; ``truth`` as in ``read``.

    The splits depend on the files, ``split_seed``, ``validation``, ``train_images`` and ``label_noise`` alone. A
    smaller ``train_images`` is a subset of a larger one; validation and test depend on neither of the last two.

    With ``data.public`` the training split holds the public images alone, and so do mean and std: see ``load_parts``.

    Raises UsageError for files that are missing or broken and for splits that cannot be made.
    """
    return _described(data, *_splits(data, truth)[:2])


def load_parts(data: Data, count: int, truth: str = "") -> list[Source]:
    """The private images, those that ``data.public`` leaves, in ``count`` parts: sources that differ from ``load``'s in
    the training split (mean and std are the public images').

    Which split and which part an image falls into depends on that image alone, not on its label or on the others, so
    that one image more or less changes one part and nothing else. Raises UsageError where a part is empty.
    """
    raw, splits, private = _splits(data, truth)
    public = _described(data, raw, splits)
    draws = (count * own_draws(private.images, (data.split_seed, "part"))).astype(np.int64)
    found = []
    for part in range(count):
        train = private.take(np.flatnonzero(draws == part))
        if not len(train):
            hint = "fewer teachers, or a smaller data.public"
            raise UsageError("A teacher's part has no images.", where=raw.origin, got=f"{count} parts", hint=hint)
        digest = source_hash(raw.labels, [train, *splits.values()])
        found.append(replace(public, train=train, hash=digest))
    return found


def _splits(data: Data, truth: str) -> tuple[Raw, dict[str, Split], Split]:
    """What was read, the three splits, and the private images."""
    raw = read(data, truth)
    return raw, *parted(data, raw)


def parted(data: Data, raw: Raw) -> tuple[dict[str, Split], Split]:
    """The three splits of what was read, and the private images. Raises UsageError where they cannot be made."""
    train, validation, test = raw.train, raw.validation, raw.test
    private = train.take(np.arange(0))
    apart = partial(cut, raw=raw) if data.public is None else own_cut
    if test is None:
        test, train = apart(train, TEST, (data.split_seed, "test"))
    if validation is None:
        validation, train = apart(train, data.validation, (data.split_seed, "validation"))
    if data.train_images is not None:
        train = subset(train, data.train_images, (data.split_seed, "train"), raw)
    if data.label_noise:
        train = mislabelled(train, data.label_noise, (data.split_seed, "noise"), len(raw.labels))
    if data.public is not None:
        train, private = own_cut(train, data.public, (data.split_seed, "public"))
    return {"training": train, "validation": validation, "test": test}, private


def _described(data: Data, raw: Raw, splits: dict[str, Split]) -> Source:
    train, validation, test = splits.values()
    _check(splits, raw, data)
    mean, std, digest, twice = described(raw.labels, splits)
    if not all(std):
        raise UsageError("Every pixel of a channel has the same value.", where=raw.origin, got=f"mean {mean}")
    missing = [raw.labels[k] for k in np.flatnonzero(of_each(train.truth, len(raw.labels)) == 0)]
    unseen = [f"no training image has {some(missing)}"] if missing and not needs_each(train.truth) else []
    notes = [*raw.notes, *unseen, *(told_twice(name, found, raw, splits) for name, found in twice.items())]
    for note in notes:
        say_once(f"data: {note}", "yellow")
    domains = {name: np.flatnonzero(np.isin(test.rows, rows)) for name, rows in raw.domains.items()}  # type: ignore[arg-type]
    return Source(
        data.source,
        raw.labels,
        train,
        validation,
        test,
        mean,
        std,
        digest,
        raw.origin,
        raw.licence,
        tuple(notes),
        domains=domains,
    )


def stratified_order(labels: np.ndarray, key: object, each: bool = True) -> np.ndarray:
    """An order of the samples in which every beginning holds each class in proportion.

    ``labels`` is int64 [N]; the result int64 [N], a permutation that depends on ``labels`` and ``repr(key)``
    alone. With ``each`` it begins with one sample of each class. A beginning of n samples is contained in one of n + 1.
    """
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:16], "little")
    # raw 64-bit words: NumPy keeps those stable between versions, which it does not promise of permutation()
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its class
    # without ``each``, strata of few samples begin at places of their own: all before or after the rest are no share
    first = np.full(len(counts), 0.5) if each else np.random.PCG64(seed + 1).random_raw(len(counts)) * 2.0**-64
    share = (place + np.repeat(first, counts)) / np.repeat(counts, counts)
    share[(place == 0) & each] = 0.0
    return by_class[np.argsort(share, kind="stable")]


def cut(split: Split, share: float, key: object, raw: Raw) -> tuple[Split, Split]:
    """A stratified ``share`` of a split, and the rest; both keep the order of the files."""
    counts, read = (of_each(s.truth, len(raw.labels)) for s in (split, raw.train))
    if (counts < 2).any() and needs_each(split.truth):
        needed = 1 + (raw.test is None) + (raw.validation is None)
        few = np.flatnonzero((counts < 2) | (read < needed))
        raise UsageError(
            "A class has too few images to be split.",
            where=raw.origin,
            got=some([f"{raw.labels[c]} ({read[c]})" for c in few], 20),
            allowed=f"{needed} or more of each: an image for each split. 30 or more say something",
            hint="add images to these classes, or leave the classes out",
        )
    order = stratified_order(strata(split.truth), key, needs_each(split.truth))
    size = min(max(round(share * len(split)), 1), len(split) - 1)
    return split.take(np.sort(order[:size])), split.take(np.sort(order[size:]))


def own_draws(images: Images, key: object) -> np.ndarray:
    """A number in [0, 1) for each image of uint8 [N, H, W, C], float64 [N]: a function of its pixels and ``key``."""
    start = hashlib.sha256(repr(key).encode()).digest()
    digests = b"".join(hashlib.sha256(start + image.tobytes()).digest()[:8] for image in images)
    return (np.frombuffer(digests, "<u8") >> np.uint64(11)) * 2.0**-53


def own_cut(split: Split, share: float, key: object) -> tuple[Split, Split]:
    """About a ``share`` of a split, and the rest: each image falls on its side whatever the others are."""
    chosen = own_draws(split.images, key) < share
    return split.take(np.flatnonzero(chosen)), split.take(np.flatnonzero(~chosen))


def mislabelled(split: Split, share: float, key: object, classes: int) -> Split:
    """With the labels of about a ``share`` of the images replaced by those of other classes, each as likely (symmetric
    noise): an image's label is wrong, or not, whatever the others are."""
    draws = own_draws(split.images, key) / share  # below 1 for those with a wrong label
    away = np.where(draws < 1, 1 + (draws * (classes - 1)).astype(np.int64), 0)
    return replace(split, truth=replaced(split.truth, away, classes))


def subset(split: Split, size: int, key: object, raw: Raw) -> Split:
    """A stratified subset of ``size`` images, in the order of the files."""
    least, each = (len(raw.labels), "one a class") if needs_each(split.truth) else (1, "no class needs one")
    if not least <= size <= len(split):
        raise UsageError(
            "data.train_images does not fit this source.",
            where=raw.origin,
            got=size,
            allowed=f"{least} ({each}) to {len(split)} (all that validation leaves)",
        )
    return split.take(np.sort(stratified_order(strata(split.truth), key, needs_each(split.truth))[:size]))


def described(
    labels: tuple[str, ...], splits: dict[str, Split]
) -> tuple[tuple[float, ...], tuple[float, ...], str, dict[str, list[int]]]:
    """``statistics`` of the training images, ``source_hash`` and ``in_training``; of kept images computed once for the
    same splits."""

    def found() -> tuple[tuple[float, ...], tuple[float, ...], str, dict[str, list[int]]]:
        return *statistics(splits["training"].images), source_hash(labels, splits.values()), in_training(splits)

    key = hashlib.sha256(repr(("described", 3, labels)).encode())
    for split in splits.values():
        if (images := identified(split.images)) is None:
            return found()
        key.update(images + encoded(split.truth))
    mean, std, digest, twice = remembered(key.hexdigest(), found)
    return tuple(mean), tuple(std), digest, twice


def in_training(splits: dict[str, Split]) -> dict[str, list[int]]:
    """Of the other splits' images those that are, pixel for pixel, training images as well: split -> [their number,
    one's place in the split, the place in the training split of the same], for a split that has any."""
    known = {fingerprint: row for row, fingerprint in enumerate(fingerprints(splits["training"].images))}
    found: dict[str, list[int]] = {}
    for name in ("validation", "test"):
        same = [(row, known[f]) for row, f in enumerate(fingerprints(splits[name].images)) if f in known]
        if same:
            found[name] = [len(same), *same[0]]
    return found


def fingerprints(images: Images) -> Iterator[int]:
    """64 bits of each image's pixels, the same within a process."""
    return (hash(image.tobytes()) for block in blocks(images) for image in block)


def told_twice(name: str, found: list[int], raw: Raw, splits: dict[str, Split]) -> str:
    count, *places = found
    rows = [split.rows[place] for split, place in zip((splits[name], splits["training"]), places)]  # type: ignore[index]
    one, other = map(raw.name, rows)
    whole = f"{count:,} of {len(splits[name]):,} {name} images"
    return f"{whole} are training images too, pixel for pixel: {one} is {other}"


def blocks(images: Images) -> Iterator[np.ndarray]:
    """The images in their order, some MB at a time."""
    step = max(1, (1 << 22) // max(1, int(np.prod(images.shape[1:]))))
    return (images[start : start + step] for start in range(0, len(images), step))


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of uint8 [N, H, W, C] scaled to 0..1, one a channel; exact counts."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for block in blocks(images):
        for channel in range(channels):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def source_hash(labels: tuple[str, ...], splits: Iterable[Split]) -> str:
    """SHA-256 of the labels' names and of every split's shape, images and labels."""
    digest = hashlib.sha256(repr(tuple(labels)).encode())
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        for block in blocks(split.images):
            digest.update(np.ascontiguousarray(block).data)
        digest.update(encoded(split.truth))
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    return without_addresses(" ".join(str(error).split())) or type(error).__name__


def _check(splits: dict[str, Split], raw: Raw, data: Data) -> None:
    for name, split in splits.items():
        if not len(split):
            raise UsageError(f"The {name} split is empty.", where=raw.origin)
    shapes = {name: split.images.shape[1:] for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items())
        raise UsageError("The splits' images differ in size.", where=raw.origin, got=got)
    check_size(data, splits["training"].images.shape)
    for name, split in splits.items():
        if are_maps(split.truth) and not of_each(split.truth, len(raw.labels)).any():
            hint = "look at the masks, and at data.ignore"
            raise UsageError(f"Every pixel of the {name} split is ignored.", where=raw.origin, hint=hint)
    counts = of_each(splits["training"].truth, len(raw.labels))
    if data.public is None and not counts.all() and needs_each(splits["training"].truth):
        names = some([raw.labels[c] for c in np.flatnonzero(counts == 0)])
        raise UsageError(
            "A class has no image in the training split.",
            where=raw.origin,
            got=names,
            hint="lower data.validation, or give the class more images",
        )


def check_size(data: Data, shape: tuple[int, ...]) -> None:
    """Raises UsageError where a size was asked for that images [N, H, W, C] have not: those of a source of one size."""
    _, height, width, _ = shape
    if data.size is not None and (height, width) != frame_of(data.size):
        raise UsageError(
            f"data.size resizes image folders; the images of {data.source} have one size.",
            got=" x ".join(map(str, frame_of(data.size))) if isinstance(data.size, tuple) else data.size,
            allowed=f"{height} x {width}: leave data.size out",
        )
