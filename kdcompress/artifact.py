"""A file that ships: its format, hash, size, what it takes as input, and where it came from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdcompress.errors import UsageError

Layout = Literal["uint8-nhwc", "float-nchw"]


@dataclass(frozen=True)
class InputSpec:
    """What a deployed model takes and what its outputs mean.

    The normalisation is part of the deployed graph; callers hand over plain pixels:
    ``uint8-nhwc`` is uint8 [N, H, W, C] in 0..255, ``float-nchw`` is float32 [N, C, H, W] in 0..1.
    The output is float32 logits [N, classes].
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]  # of pixels scaled to 0..1, one a channel
    std: tuple[float, ...]
    labels: tuple[str, ...]
    layout: Layout = "uint8-nhwc"
    batch: int | None = None  # None: dynamic
    name: str = "image"
    output: str = "logits"

    @property
    def classes(self) -> int:
        return len(self.labels)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] images of a source -> the array this model takes."""
        expected = (self.height, self.width, self.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise UsageError(
                "The images do not fit the model's input.",
                got=f"{images.dtype} {list(images.shape)}",
                allowed=f"uint8 [N, {', '.join(map(str, expected))}]",
            )
        if self.layout == "uint8-nhwc":
            return np.ascontiguousarray(images)
        scaled = images.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> InputSpec:
        lists = {k: tuple(v) for k, v in data.items() if isinstance(v, list)}
        return cls(**{**data, **lists})


@dataclass(frozen=True)
class Artifact:
    """A file on disk that ships, and its provenance. ``path`` may be absolute or relative to the
    folder that its record is read from."""

    path: Path
    format: str  # "onnx", "tensorrt-rtx", ... : which runner loads it
    precision: str  # "fp32", "fp16", "int8"
    input: InputSpec
    sha256: str
    bytes: int
    target: str | None = None  # the target it was built for; None for the fp32 parent
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, format: str, precision: str, input: InputSpec, **rest: Any) -> Artifact:
        """The artefact of a file that has just been written: hashes and measures it."""
        return cls(path, format, precision, input, sha256(path), path.stat().st_size, **rest)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": self.path.name}

    @classmethod
    def from_json(cls, data: dict[str, Any], folder: Path) -> Artifact:
        spec = InputSpec.from_json(data["input"])
        return cls(**{**data, "path": folder / data["path"], "input": spec})

    def verified(self) -> Artifact:
        """This artefact, once the file on disk is shown to be the one that was recorded."""
        if not self.path.is_file() or sha256(self.path) != self.sha256:
            raise UsageError(
                "The artefact's file is missing or is not the one that was recorded.",
                where=self.path,
                allowed=f"sha256 {self.sha256}",
                hint="run the export again, or restore the file",
            )
        return self

    def with_provenance(self, **facts: Any) -> Artifact:
        return replace(self, provenance={**self.provenance, **facts})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, on the disk, once the block has ended without an error.

    Its name is always the same, so that what a killed process left is written over by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8; the file appears whole or stays as it was."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
