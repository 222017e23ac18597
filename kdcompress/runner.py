"""The one way an artefact is run: parity, accuracy and latency all go through a Runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.errors import UsageError

Found = TypeVar("Found")
Keep = Callable[[tuple[np.ndarray, ...], tuple[int, int]], Sequence[np.ndarray]]


class Runner(Protocol):
    """A context manager that loads an artefact and infers. Loading happens in ``__enter__``, never
    in ``__init__``, so that load time can be measured and a runner can be described unloaded."""

    name: str  # "onnxruntime-cpu", "tensorrt-rtx", "torch", ...

    def __enter__(self) -> Runner: ...

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """``x`` as ``InputSpec.prepare`` gives it; returns the outputs, float32 [N, ...] each, in the order of
        ``InputSpec.outputs``: by their names, whatever the order in the file."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def details(self) -> dict[str, Any]:
        """Runtime, version, threads and session options, for the record."""
        ...


def infer_all(
    runner: Runner, images: Any, spec: InputSpec, batch_size: int = 256, keep: Keep | None = None
) -> tuple[np.ndarray, ...]:
    """The outputs, float32 [N, ...] each, of uint8 [N, H, W, C] images, an array or kept in a file, in the batches the
    model allows; or what ``keep`` makes of those of each batch, which is given the images' height and width too."""
    if spec.batch is not None:
        batch_size = spec.batch
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        short = batch_size - len(part) if spec.batch is not None else 0
        if short:  # a fixed-batch graph takes whole batches only: repeat the last image, drop its rows
            part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
        outputs = runner.infer(spec.prepare(part))
        outputs = tuple(output[: len(output) - short] for output in outputs)
        parts.append(outputs if keep is None else tuple(keep(outputs, (spec.height, spec.width))))
    return joined(parts)


def joined(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """The outputs of several calls as those of one."""
    return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))


def by_name(artifact: Artifact, found: Mapping[str, Found]) -> list[Found]:
    """What a file has under the names of the artefact's outputs, in their order.

    Raises UsageError where it has nothing under one of them.
    """
    wanted = [output.name for output in artifact.input.outputs]
    if missing := [name for name in wanted if name not in found]:
        raise UsageError(
            "The file has no output of this name.",
            where=artifact.path,
            got=", ".join(missing),
            allowed=", ".join(found) or "none",
            hint="its record is that of another file: export it again",
        )
    return [found[name] for name in wanted]
