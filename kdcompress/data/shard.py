"""The samples of one WebDataset shard, a .tar file that has to be whole.

tarfile takes the end of the file, and a header that it cannot read, for the end of the archive; here that is an error.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from kdcompress.data.image import SUFFIXES
from kdcompress.data.listing import foreign
from kdcompress.data.source import one_line
from kdcompress.errors import UsageError

Sample = tuple[str, int, int, int]  # name of the image, where in the shard it begins, its bytes, its class
END = bytes(2 * tarfile.BLOCKSIZE)
PADDING = 2**16  # bytes of zeros after the end, at most: writers fill a record, of 10 kB where nobody chose another
MOST_TEXT = 2**22  # bytes of a .cls or .json


def index(shard: Path) -> list[Sample]:
    """The samples of a shard that have an image, in its order.

    Raises UsageError for a shard that is not whole, and for a sample without a class or whose files are elsewhere.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            return list(samples(tar, members_of(tar, shard), shard))
    except UsageError:
        raise
    except Exception as error:  # tarfile raises many kinds for a file that is none
        raise UsageError("A shard cannot be read.", where=shard, got=one_line(error)) from error


def members_of(tar: tarfile.TarFile, shard: Path) -> list[tarfile.TarInfo]:
    size, found, fault = shard.stat().st_size, [], None
    try:
        for member in tar:
            if not 0 <= member.size <= size - member.offset_data and not member.issparse():
                fault = f"{member.name} is said to have {member.size:,} bytes, more than there are"
                break
            found.append(member)
    except tarfile.ReadError as error:
        fault = str(error)
    padding, beyond = b"", 0
    if fault is None:
        with shard.open("rb") as file:
            file.seek(tar.offset)
            end, padding = file.read(len(END)), file.read(PADDING)
            beyond = size - file.tell()
        if end != END:
            short = len(end) < len(END) and not any(end)
            fault = "the blocks of zeros at its end are missing" if short else f"no file begins at byte {tar.offset:,}"
        elif beyond and not any(padding):  # as a download leaves it that has its file made as large as it will be
            fault = f"zeros from byte {tar.offset:,} on, {size - tar.offset:,} of them"
    if fault:
        keys = list(dict.fromkeys(key_of(member)[0] for member in found if wanted(member)))[:-1]
        raise UsageError(
            "A shard is cut off or damaged.",
            where=shard,
            got=f"{fault}; the last sample that is whole for certain is "
            + (f"{keys[-1]}, number {len(keys):,}" if keys else "not there"),
            hint="copy or download it again",
        )
    if any(padding):
        raise UsageError(
            "A shard has more data after its end.",
            where=shard,
            got=f"more after byte {tar.offset:,}",
            hint="write it again as one .tar file; of two that were joined only the first can be read",
        )
    return found


def samples(tar: tarfile.TarFile, members: list[tarfile.TarInfo], shard: Path) -> Iterator[Sample]:
    files = {member.name: member for member in members if member.isreg() and not member.issparse()}
    for key, group in groupby(filter(wanted, members), lambda member: key_of(member)[0]):
        parts: dict[str, tarfile.TarInfo] = {}
        for member in group:
            kind, where = key_of(member)[1], f"{shard}: {member.name}"
            if kind in parts:
                raise UsageError("A sample has two files of the same kind.", where=where)
            target = files.get(member.linkname) if member.islnk() else member  # GNU tar has a file with two names once
            if target is None or target.name not in files:
                raise UsageError(
                    "A sample's file is not in the shard: it is a link, sparse or a device.",
                    where=where,
                    got=member.linkname or None,
                    hint="write the shard with the files themselves (tar --dereference)",
                )
            parts[kind] = target
        image = next((member for kind, member in parts.items() if f".{kind}" in SUFFIXES), None)
        if image is not None:
            yield image.name, image.offset_data, image.size, class_of(tar, parts, f"{shard}: {key}")
        elif "cls" in parts:
            raise UsageError("A sample has no image.", where=f"{shard}: {key}", got=", ".join(parts))


def wanted(member: tarfile.TarInfo) -> bool:
    kind = key_of(member)[1]
    ours = not any(map(foreign, PurePosixPath(member.name).parts))
    return ours and not member.isdir() and (f".{kind}" in SUFFIXES or kind in ("cls", "json"))


def key_of(member: tarfile.TarInfo) -> tuple[str, str]:
    """a/b.c.JPG -> a/b, c.jpg"""
    path = PurePosixPath(member.name)
    stem, _, kind = path.name.partition(".")
    return str(path.with_name(stem or path.name)), kind.lower()


def class_of(tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], where: str) -> int:
    for kind in ("cls", "json"):
        content = tar.extractfile(parts[kind]) if kind in parts else None
        if content is not None:
            text = content.read(MOST_TEXT)
            try:
                label = json.loads(text)["label"] if kind == "json" else text.decode()
                number = int(label)
                if number < 0 or isinstance(label, float) and label != number:
                    raise ValueError
            except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
                got = repr(text[:40])
                raise UsageError("A sample's class is not a number.", where=f"{where}.{kind}", got=got) from error
            return number
    raise UsageError("A sample has no class.", where=where, got=", ".join(parts), allowed="KEY.cls, KEY.json")
