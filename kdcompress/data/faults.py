"""Which image files cannot be decoded: what their ends say at little cost, and what decoding them says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kdcompress.data.decode import EACH, File, Room, decode, in_threads, read_header
from kdcompress.data.image import MOST_PIXELS, Header
from kdcompress.data.source import one_line

ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82", b"GIF8": b"\x3b"}  # of a whole file, by its start
LONGEST = max(map(len, ENDS.values()))


def looks_whole(path: Path) -> bool:
    """Whether the file ends as those of its kind do. One that does not is cut off, or has something appended; of other
    kinds nothing is known, and they look whole."""
    try:
        with path.open("rb", buffering=0) as file:
            start, size = file.read(LONGEST), os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LONGEST))
            end = file.read(LONGEST)
    except OSError:
        return False
    if start[:4] == b"RIFF":
        return size >= 8 + int.from_bytes(start[4:8], "little")
    return all(end.endswith(ends) for begins, ends in ENDS.items() if start.startswith(begins))


def faults(paths: Sequence[Path]) -> dict[Path, str]:
    """Why, of those files that cannot be decoded. All are decoded."""
    room = Room(max(MOST_PIXELS, EACH * (os.cpu_count() or 1)))

    def fault(path: Path) -> str | None:
        file = File(path)
        header = read_header(file)
        if not isinstance(header, Header):
            return header
        try:
            with room.of(header.width * header.height):
                decode(file, (header.height, header.width, 1 if header.grey else 3), header.jpeg)
        except Exception as error:  # decoders raise many kinds
            return one_line(error)
        return None

    return {path: why for path, why in zip(paths, in_threads(fault, paths), strict=True) if why}
