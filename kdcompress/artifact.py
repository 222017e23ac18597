"""What ships, a file or a folder: its format, hash, size, what it takes and gives, and where it came from."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kdcompress.errors import UsageError
from kdcompress.untrusted import (
    MOST_CLASSES,
    MOST_OUTPUTS,
    MOST_PIXELS,
    Rules,
    checked,
    finite,
    plain_name,
    text,
    whole,
)

# What kdcompress writes are the first two; files from elsewhere take the others too.
Layout = Literal["uint8-nhwc", "float-nchw", "float-nhwc", "half-nchw", "half-nhwc", "uint8-nchw"]
_TYPES = {"uint8": np.uint8, "float": np.float32, "half": np.float16}


CLASSES = "classes"  # the output that is the class of each pixel


@dataclass(frozen=True)
class Output:
    """An array that a deployed model gives: float32 [N, *shape]."""

    name: str  # no other output of the model has it; the runners go by it
    shape: tuple[int, ...]  # of one image's: without the batch
    meaning: str  # in a few words
    chosen: bool = False  # its rows are of places that the network chose: a set, whose order means nothing

    @classmethod
    def logits(cls, classes: int, name: str = "logits") -> Output:
        """The one output of a classifier."""
        return cls(name, (classes,), "logits: the largest is the answer; their softmax gives shares")

    @property
    def decided(self) -> bool:
        """Whether these are numbers of classes, of which near ties may be decided otherwise, and nothing between."""
        return self.name == CLASSES

    @classmethod
    def from_json(cls, data: Any, what: str) -> Output:
        """Raises UsageError, which begins with ``what``, for what describes no output."""
        data = checked(data, _OUTPUT, what, _OUTPUT_REST)
        if math.prod(data["shape"]) > MOST_PIXELS:
            raise UsageError(what, got=f"{data['name']}: {data['shape']}", allowed=f"at most {MOST_PIXELS:,} values")
        return cls(**{**data, "shape": tuple(data["shape"])})


def margin_at(threshold: float) -> float:
    """By how much the second of two logits is above the first where its share (softmax) is ``threshold``."""
    return math.log(threshold / (1 - threshold))


@dataclass(frozen=True)
class InputSpec:
    """What a deployed model takes, and what it gives for that.

    The normalisation is part of the deployed graph; callers hand over plain pixels:
    ``uint8-nhwc`` is uint8 [N, H, W, C] in 0..255, ``float-nchw`` is float32 [N, C, H, W] in 0..1, ``half`` float16.
    The model gives its outputs in this order; a file may hold them in another.
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
    outputs: tuple[Output, ...] = ()  # none given: a classifier's logits
    task: str = "classification"  # what the network is for
    fit: str | None = None  # how images of another shape got this one, as ``data.fit`` says
    threshold: float | None = None  # of two classes: the share (softmax) above which the second is the answer

    def __post_init__(self) -> None:
        if not self.outputs:
            object.__setattr__(self, "outputs", (Output.logits(self.classes),))

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def chosen(self) -> bool:
        """Whether the outputs are of places that the network chose."""
        return any(output.chosen for output in self.outputs)

    @property
    def decodes(self) -> bool:
        """Whether the model makes something else of its last layers' outputs."""
        return len(self.outputs) > 1 or self.outputs[0].decided

    def with_threshold(self, threshold: float | None) -> InputSpec:
        """The same of a classifier whose answers are what a threshold says."""
        if threshold is None:
            return self
        meaning = f"logits: the second label where its share (their softmax) is above {threshold:g}, else the first"
        return replace(self, threshold=threshold, outputs=(replace(self.outputs[0], meaning=meaning),))

    def to_json(self) -> dict[str, Any]:
        """A threshold is in it where there is one."""
        facts = asdict(self)
        return facts if self.threshold is not None else {k: v for k, v in facts.items() if k != "threshold"}

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] images of a source -> the array this model takes."""
        expected = (self.height, self.width, self.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise UsageError(
                "The images do not fit the model's input.",
                got=f"{images.dtype} {list(images.shape)}",
                allowed=f"uint8 [N, {', '.join(map(str, expected))}]",
            )
        kind, order = self.layout.split("-")
        pixels = images if kind == "uint8" else images.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(pixels if order == "nhwc" else pixels.transpose(0, 3, 1, 2), _TYPES[kind])

    @classmethod
    def from_json(cls, data: Any) -> InputSpec:
        """What ``to_json`` gave. Raises UsageError for what describes no input, or outputs of one name."""
        what = "The description of the model's input is damaged."
        data = dict(checked(data, _INPUT, what, _INPUT_REST))
        height, width, channels = data["height"], data["width"], data["channels"]
        if height * width * channels > MOST_PIXELS or {len(data["mean"]), len(data["std"])} != {channels}:
            got = f"{height} x {width} x {channels}, {len(data['mean'])} means, {len(data['std'])} deviations"
            raise UsageError(
                what, got=got, allowed=f"a mean and a deviation per channel, at most {MOST_PIXELS:,} values"
            )
        former = data.pop("output", None)  # a name, in the records of before models had several outputs
        outputs = tuple(Output.from_json(each, what) for each in data.pop("outputs", ()))
        if not outputs and former is not None:
            outputs = (Output.logits(len(data["labels"]), former),)
        if len({output.name for output in outputs}) < len(outputs):
            raise UsageError(
                what, got=", ".join(output.name for output in outputs), allowed="outputs of different names"
            )
        found = cls(**{**data, **{name: tuple(data[name]) for name in ("mean", "std", "labels")}, "outputs": outputs})
        if found.threshold is not None and (found.classes != 2 or len(found.outputs) > 1):
            raise UsageError(what, got=f"a threshold for {found.classes} classes", allowed="a threshold for two")
        return found


@dataclass(frozen=True)
class Artifact:
    """What ships, and its provenance: a file, or a folder in the formats that are made of several files. ``path`` may
    be absolute or relative to the folder that its record is read from."""

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
        """The artefact that has just been written to ``path``: hashes and measures it."""
        return cls(path, format, precision, input, sha256(path), size_of(path), **rest)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": self.path.name, "input": self.input.to_json()}

    @classmethod
    def from_json(cls, data: Any, folder: Path) -> Artifact:
        """What ``to_json`` gave, of a file in ``folder``. Raises UsageError for anything else."""
        data = checked(data, _RECORD, "This is not the record of an artefact.", _RECORD_REST)
        return cls(**{**data, "path": folder / data["path"], "input": InputSpec.from_json(data["input"])})

    def verified(self) -> Artifact:
        """This artefact, once what is on the disk is shown to be what was recorded."""
        if not self.path.exists() or sha256(self.path) != self.sha256:
            raise UsageError(
                "The artefact is missing, incomplete or not the one that was recorded.",
                where=self.path,
                got=f"{sum(1 for _ in files_of(self.path))} files" if self.path.is_dir() else None,
                allowed=f"sha256 {self.sha256}, {self.bytes:,} bytes",
                hint="run the export again, or restore the file",
            )
        return self

    def with_provenance(self, **facts: Any) -> Artifact:
        return replace(self, provenance={**self.provenance, **facts})


# What a record may say: it can come from anywhere.
_INPUT: Rules = {
    "height": lambda value: whole(value, 1, 1 << 16),
    "width": lambda value: whole(value, 1, 1 << 16),
    "channels": lambda value: whole(value, 1, 1 << 16),
    "mean": lambda values: isinstance(values, list | tuple) and all(map(finite, values)),
    "std": lambda values: isinstance(values, list | tuple) and all(finite(value) and value > 0 for value in values),
    "labels": lambda values: (
        isinstance(values, list | tuple) and 1 <= len(values) <= MOST_CLASSES and all(map(text, values))
    ),
}
_INPUT_REST: Rules = {
    "layout": lambda value: isinstance(value, str) and value in get_args(Layout),
    "batch": lambda value: value is None or whole(value, 1, 1 << 16),
    "name": text,
    "output": text,
    "task": text,
    "fit": lambda value: value in (None, "letterbox", "squash"),
    "threshold": lambda value: value is None or (finite(value) and 0 < value < 1),
    "outputs": lambda values: isinstance(values, list | tuple) and 1 <= len(values) <= MOST_OUTPUTS,
}
_OUTPUT: Rules = {
    "name": lambda value: text(value) and value != "",
    "shape": lambda values: (
        isinstance(values, list | tuple) and len(values) <= 8 and all(whole(value, 1, MOST_PIXELS) for value in values)
    ),
    "meaning": text,
}
_OUTPUT_REST: Rules = {"chosen": lambda value: isinstance(value, bool)}
_RECORD: Rules = {
    "path": plain_name,
    "format": text,
    "precision": text,
    "input": lambda value: isinstance(value, dict),
    "sha256": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
    "bytes": lambda value: whole(value, 0, 1 << 53),
}
_RECORD_REST: Rules = {
    "target": lambda value: value is None or text(value),
    "provenance": lambda value: isinstance(value, dict),
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, for a file or a folder, that takes its place, on the disk, once the block has
    ended without an error. A folder is never replaced by a file: that raises IsADirectoryError.

    Its name is always the same, so that what a killed process left is written over by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    remove(temporary)
    try:
        yield temporary
        for part in files_of(temporary):
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if path.is_dir() and temporary.is_dir():
            remove(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def user_cache() -> Path:
    """The folder of the user's that keeps what can be made or downloaded again: $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcompress"


def private_folder(path: Path) -> Path:
    """A folder for what is this user's alone, made (0700) where it is not there.

    Raises OSError where it cannot be made, is somebody else's, or may be written to by anybody.
    """
    for folder in reversed([part for part in (path, *path.parents) if not part.exists()]):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)  # whatever the umask is
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the folder is somebody else's", str(path))
    if found.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, "anybody may write to the folder", str(path))
    if path.is_relative_to(user_cache()):
        path.chmod(0o700)
    return path


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a file that is this user's alone (0600), opened with ``flags``; no link is followed.

    Raises OSError for what is no file, or somebody else's.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)  # a pipe is not waited for
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "it is not a file of this user", str(path))
    os.fchmod(descriptor, 0o600)  # whatever the umask is
    return descriptor


def open_new(path: Path) -> int:
    """As ``open_private``, of a file that is made: raises FileExistsError where there is one."""
    return open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def copy_to(path: Path, to: Path) -> None:
    """A file or a folder."""
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, to)


def remove(path: Path) -> None:
    """A file or a folder, where there is one; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files_of(path: Path) -> list[Path]:
    """The file itself, or those in a folder and below it, sorted."""
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(part.stat().st_size for part in files_of(path))


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8; the file appears whole or stays as it was."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def kept_json(path: Path) -> Any:
    """What a file that we keep holds; None where it is not there, or damaged."""
    try:
        return parsed(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def parsed(content: bytes) -> Any:
    """The value of a JSON text in UTF-8; None where it is damaged."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def clean_name(text: str) -> str:
    """``text`` as a name for a recipe, a folder or a file: ASCII letters, digits, ".", "_" and "-", at most 100 of
    them. What is one already stays as it is; a part of the hash is added where letters are lost."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        return text
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)]
    name = re.sub(r"[^A-Za-z0-9._]+", "-", "".join(letters)).strip("-._")
    lost = len(name) > 100 or any(letter.isalnum() and not letter.isascii() for letter in letters)
    return f"{name[:80]}-{content_hash(text)[:8]}".lstrip("-") if lost or not name else name


def sha256(path: Path) -> str:
    """Of a file's content; of a folder: of the names and the hashes of its files."""
    if path.is_dir():
        return content_hash({part.relative_to(path).as_posix(): sha256(part) for part in files_of(path)})
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
