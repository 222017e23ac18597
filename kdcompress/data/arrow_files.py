"""Where in an Arrow file its images are: the files of the library ``datasets``, streams of record batches that are not
compressed, so that an image is a part of the file, and is decoded from there without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.errors import UsageError
from kdcompress.optional import require

Row = list[Any]  # path of an image that has a file of its own, else ""; offset; bytes; then the other columns' values


def rows_of(file: Path, image: str, others: Sequence[str], extra: str) -> list[Row]:
    """The rows of a file, JSON-able; offset and bytes are -1 for one without an image. ``extra`` installs the reader.

    Raises UsageError for a file that is not whole, or whose images are compressed once more.
    """
    arrow = require("pyarrow", extra, "An Arrow file")
    try:
        with arrow.memory_map(str(file)) as memory:
            start, size = memory.read_buffer(1).address, memory.size()
            memory.seek(0)
            with arrow.ipc.open_stream(memory) as batches:
                found = [row for batch in batches for row in _rows(batch, image, others, start)]
    except (arrow.ArrowInvalid, arrow.ArrowKeyError, OSError) as error:
        raise UsageError("An Arrow file cannot be read.", where=file, got=error) from error
    if any(not row[0] and row[2] > 0 and not 0 <= row[1] <= size - row[2] for row in found):
        hint = "save the data set again with `save_to_disk`"
        raise UsageError("The images of an Arrow file are compressed.", where=file, hint=hint)
    return found


def _rows(batch: Any, image: str, others: Sequence[str], start: int) -> Iterator[Row]:
    if not len(batch):
        return
    values = [batch.column(name).to_pylist() for name in others]
    column = batch.column(image)
    data, paths = column, None
    if hasattr(column, "field"):  # a struct: bytes, or the path of a file
        names = [field.name for field in column.type]
        data, paths = (column.field(name) if name in names else None for name in ("bytes", "path"))
    there = column.is_valid().to_numpy(zero_copy_only=False)
    held = there & (data is not None and data.is_valid().to_numpy(zero_copy_only=False))
    offsets = _offsets(data, start) if data is not None else []
    for row in range(len(batch)):
        if held[row]:
            where = ["", offsets[row], offsets[row + 1] - offsets[row]]
        elif there[row] and paths is not None and paths[row].as_py():
            where = [paths[row].as_py(), 0, 0]
        else:
            where = ["", -1, -1]
        yield [*where, *(its[row] for its in values)]


def _offsets(data: Any, start: int) -> list[int]:
    """Where in the file each value of a column of bytes begins, and the last one ends."""
    width = {"binary": "<i4", "string": "<i4"}.get(str(data.type), "<i8")
    _, places, content = data.buffers()
    found = np.frombuffer(places, width)[data.offset : data.offset + len(data) + 1].astype(np.int64)
    return (found + ((content.address if content else start) - start)).tolist()
