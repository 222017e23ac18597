"""A folder of domains, each of them a folder of images: root/DOMAIN/CLASS/* or root/DOMAIN/{train,val,test}/CLASS/*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdcompress.data.decode import File, read_images
from kdcompress.data.from_folder import ImageFolder, class_files, split_folders
from kdcompress.data.image import SUFFIXES
from kdcompress.data.kept import chosen
from kdcompress.data.listing import Passed, entries, files_below
from kdcompress.data.source import TEST, root_of, sources, stratified_order
from kdcompress.data.splits import Found, Raw, Split
from kdcompress.errors import UsageError, some, unknown_name
from kdcompress.recipe import Data


class Labelled(NamedTuple):
    """Files, and their class numbers, int64 [N]."""

    files: list[Path]
    truth: np.ndarray

    def take(self, rows: np.ndarray) -> Labelled:
        return Labelled([self.files[row] for row in rows], self.truth[rows])


class Domains:
    """The training and validation images are those of the domain ``data.labelled``. The test images are those of all
    domains. The other images of ``data.targets`` are theirs without labels: how their folders are called is looked at
    only where test images are cut from them.

    A domain's splits are those of an image folder. The test images of one without a test folder are a fifth of its
    images, of each class; a target that has no classes has none.
    """

    def find(self, data: Data) -> Found:
        root = root_of(data, "the folder of the domains")
        if not root.is_dir():
            raise UsageError("data.root is not a folder.", where=root)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        root, passed = Path(self.find(data).origin), Passed()
        if data.labelled is None:
            there = some([folder.name for folder in entries(root, Passed())[0]], 20)
            raise UsageError("The labels of one domain are learnt: name it.", where="data.labelled", allowed=there)
        names = target_names(root, data)
        own = ImageFolder().listed(data.model_copy(update={"root": root / data.labelled}))
        parts = {name: Labelled(list(own.files[name]), np.asarray(own.truth[name])) for name in own.files}
        if "test" not in parts:
            parts["test"], parts["train"] = apart(parts["train"], (data.split_seed, data.labelled))
        tests, nobodys = {data.labelled: parts["test"]}, list[Path]()
        for name in names:
            test, others = target(root / name, own.labels, data, passed)
            nobodys += others
            if test:
                tests[name] = test
        ordered = [parts[name] for name in ("train", "validation") if name in parts] + list(tests.values())
        notes = [*own.notes, *passed.notes(root)]
        if unscored := [name for name in names if name not in tests]:
            notes.append(f"domains without labels, which the score leaves out: {some(unscored)}")
        return joined(root, data, own.labels, ordered, list(tests), nobodys, notes)


def joined(
    root: Path,
    data: Data,
    labels: tuple[str, ...],
    parts: Sequence[Labelled],
    tested: Sequence[str],
    nobodys: Sequence[Path],
    notes: list[str],
) -> Raw:
    """Read at once, so that all are of one size: ``parts`` are training images, perhaps validation images, and the test
    images of each domain in ``tested``."""
    files = [file for part in parts for file in part.files]
    images = read_images([File(path) for path in (*files, *nobodys)], data.size, root, data.fit or "crop")
    ends = [0, *accumulate(len(part.files) for part in parts)]
    rows = [range(*each) for each in pairwise(ends)]
    first_test = len(parts) - len(tested)

    def split(start: int, stop: int) -> Split:
        return Split(
            chosen(images, slice(ends[start], ends[stop])), np.concatenate([p.truth for p in parts[start:stop]])
        )

    return Raw(
        labels,
        split(0, 1),
        split(1, 2) if first_test == 2 else None,
        split(first_test, len(parts)),
        str(root),
        notes=notes,
        files=[*files, *nobodys],
        targets=chosen(images, slice(ends[-1], len(images))),
        domains=dict(zip(tested, rows[first_test:], strict=True)),
    )


def target_names(root: Path, data: Data) -> list[str]:
    """The target domains. Raises UsageError for a domain that is not there, and where there is no target."""
    there = [folder.name for folder in entries(root, Passed())[0]]
    for key, names in (("labelled", filter(None, [data.labelled])), ("targets", data.targets or ())):
        for name in names:
            if name not in there:
                raise unknown_name("domain", name, there, where=f"data.{key}, a folder in {root}")
    found = [name for name in there if name != data.labelled] if data.targets is None else list(data.targets)
    if not found:
        hint = "put each target domain into a folder beside it, or take source: image-folder"
        raise UsageError("There is no target domain.", where=root, got=f"{data.labelled} alone", hint=hint)
    if len(set(found)) < len(found):
        raise UsageError("A target domain is named twice.", where="data.targets", got=", ".join(found))
    return found


def target(root: Path, labels: tuple[str, ...], data: Data, passed: Passed) -> tuple[Labelled | None, list[Path]]:
    """The test images with their labels, where there are any, and the images without labels.

    Raises UsageError for other classes than ``labels``, and where there is no image without a label.
    """
    folders = split_folders(root, passed=passed)
    if "test" in folders:
        test = labelled(folders.pop("test"), labels, passed)
        others = [file for folder in folders.values() for file in images_in(folder)]
    elif any(entries(folder, Passed())[0] for folder in folders.values()):
        both = [labelled(folder, labels, passed) for folder in folders.values()]
        whole = Labelled([f for each in both for f in each.files], np.concatenate([each.truth for each in both]))
        test, left = apart(whole, (data.split_seed, root.name))
        others = left.files
    else:
        test, others = None, [file for folder in folders.values() for file in images_in(folder)]
    if not others:
        raise UsageError("A target domain has no images to learn from.", where=root, hint="add some, or leave it out")
    return test, others


def images_in(folder: Path) -> list[Path]:
    return [file for file in files_below(folder, Passed()) if file.suffix.lower() in SUFFIXES]


def labelled(folder: Path, labels: tuple[str, ...], passed: Passed) -> Labelled:
    classes: Mapping[str, list[Path]] = class_files(folder, passed)
    if tuple(classes) != labels:
        raise UsageError(
            "A target domain's classes are not those of the source domain.",
            where=folder,
            got=some(list(classes), 20) or "none",
            allowed=some(list(labels), 20),
            hint="give both the same folders; or a target without classes: its images alone, which are not scored",
        )
    if empty := [name for name, files in classes.items() if not files]:
        raise UsageError("A class has no image.", where=folder, got=some(empty, 20), hint="add images to it")
    counts = [len(files) for files in classes.values()]
    return Labelled([file for files in classes.values() for file in files], np.repeat(np.arange(len(labels)), counts))


def apart(part: Labelled, key: object) -> tuple[Labelled, Labelled]:
    """The test images, ``TEST`` of each class and one at least, and the others."""
    if (np.bincount(part.truth) < 2).any():
        where = part.files[0].parents[1]
        hint = "add images, or give the domain a test folder"
        raise UsageError("A class has too few images to be split.", where=where, allowed="2 or more of each", hint=hint)
    order = stratified_order(part.truth, (key, "test"))
    size = min(max(round(TEST * len(order)), int(part.truth.max()) + 1), len(order) - 1)
    return part.take(np.sort(order[:size])), part.take(np.sort(order[size:]))


sources.register("domains")(Domains())
