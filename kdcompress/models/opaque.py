"""Teachers that cannot be looked into: they give logits of whole images, and have neither weights nor gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.artifact import InputSpec
from kdcompress.data.given import GivenAnswers, digests
from kdcompress.runner import Runner

Gives = Literal["logits", "probabilities"]
FLOOR = 1e-12  # probability of a class that was given none, or less: a logarithm has to be there
LUMINANCE = (19595, 38470, 7471)  # ITU-R 601-2 in parts of 2^16, as images are given to files that are scored


class Opaque(nn.Module):
    """``numbers`` int [K]: the source's number of each of its classes."""

    def __init__(self, numbers: Sequence[int]):
        super().__init__()
        self.order = np.argsort(np.asarray(numbers)).tolist()

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [N, C, H, W], uint8 or floating point in 0..1 -> logits float32 [N, K], as the source counts them."""
        with torch.no_grad():
            return self.answers(x)[:, self.order]

    def answers(self, x: Tensor) -> Tensor:
        """Logits as the file counts them."""
        raise NotImplementedError


class FileTeacher(Opaque):
    """A file that is run in its own runtime, which ``start`` opens when it is first asked.

    ``spec``: of its input. ``mean`` and ``std``: the normalisation of pixels in 0..1 that it does not do itself.
    ``gives``: what its first output is; the logarithms of probabilities are taken for logits. ``sha256``: the file's.
    Images of another size are resized (bilinear) and get the file's colours.
    """

    def __init__(
        self,
        start: Callable[[], Runner],
        spec: InputSpec,
        sha256: str,
        numbers: Sequence[int],
        gives: Gives = "logits",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__(numbers)
        self.start, self.spec, self.sha256, self.gives = start, spec, sha256, gives
        self.mean, self.std = mean, std
        self._runner: Runner | None = None

    @property
    def threshold(self) -> float | None:
        """The share of the source's second class above which it is the answer, where the file ships one."""
        share = self.spec.threshold
        return share if share is None or self.order[0] == 0 else 1 - share

    def extra_repr(self) -> str:
        """All that decides its answers: the answers that are kept of it go by this."""
        return f"{self.sha256}, gives {self.gives}, mean {self.mean}, std {self.std}, order {self.order}"

    def answers(self, x: Tensor) -> Tensor:
        taken, size = self.taken(x), self.spec.batch or len(x)
        parts = []
        for start in range(0, len(taken), size):
            part = taken[start : start + size]
            short = size - len(part)
            if short:  # a graph of a fixed batch takes whole ones: the last image again, and its rows dropped
                part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
            parts.append(self.runner().infer(part)[0][: size - short])
        found = torch.from_numpy(np.concatenate(parts)).float()
        return (found.clamp(min=FLOOR).log() if self.gives == "probabilities" else found).to(x.device)

    def taken(self, x: Tensor) -> np.ndarray:
        """The images as the file takes them."""
        kind, order = self.spec.layout.split("-")
        x = _in_size(_in_colours(x, self.spec.channels), (self.spec.height, self.spec.width))
        if kind == "uint8":
            x = x if x.dtype == torch.uint8 else (x.float() * 255).round().clamp(0, 255).to(torch.uint8)
        else:
            x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
            if self.mean is not None and self.std is not None:
                mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
                x = (x - mean) / std
            x = x.half() if kind == "half" else x
        return (x.permute(0, 2, 3, 1) if order == "nhwc" else x).contiguous().cpu().numpy()

    def runner(self) -> Runner:
        if self._runner is None:
            stack = ExitStack()
            self._runner = stack.enter_context(self.start())  # type: ignore[arg-type]
            weakref.finalize(self, stack.close)
        return self._runner

    def __getstate__(self) -> dict[str, Any]:
        """A copy opens a runner of its own."""
        return {**vars(self), "_runner": None}


class GivenTeacher(Opaque):
    """Answers in a file, read by the places of images in their set (training/given.py); nothing is computed. Asked for
    images as any other network is, it knows those that are in the file as they are; all else is not a number."""

    def __init__(self, given: GivenAnswers, numbers: Sequence[int], sha256: str):
        super().__init__(numbers)
        self.given, self.sha256 = given, sha256

    def extra_repr(self) -> str:
        return f"{self.sha256}, order {self.order}"

    def answers(self, x: Tensor) -> Tensor:
        found = np.full((len(x), self.given.classes), np.nan, np.float32)
        if x.dtype == torch.uint8 and self.given.augment is None and not self.given.by_path:
            rows = self.given.places(digests(x.permute(0, 2, 3, 1).cpu().numpy()))
            found[rows >= 0] = self.given.logits(rows[rows >= 0])
        return torch.from_numpy(found).to(x.device)


def _in_colours(x: Tensor, channels: int) -> Tensor:
    """Grey becomes RGB, and RGB its luminance."""
    if x.shape[1] == 1 and channels == 3:
        return x.expand(-1, 3, -1, -1)
    if x.shape[1] == 3 and channels == 1:
        weights = torch.tensor(LUMINANCE, device=x.device).view(1, 3, 1, 1)
        if x.dtype == torch.uint8:
            return ((x.int() * weights.int()).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)
        return (x.float() * weights / 2**16).sum(1, keepdim=True)
    return x


def _in_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    return F.interpolate(x, size, mode="bilinear", antialias=size[0] < x.shape[-2] or size[1] < x.shape[-1])


@dataclass(frozen=True)
class Fitted(InputSpec):
    """A file's input that takes images of any size and colours."""

    def prepare(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != (self.height, self.width, self.channels):
            x = _in_size(_in_colours(torch.from_numpy(images).permute(0, 3, 1, 2), self.channels), self.size)
            x = x if x.dtype == torch.uint8 else (x * 255).round().clamp(0, 255).to(torch.uint8)
            images = x.permute(0, 2, 3, 1).contiguous().numpy()
        return super().prepare(images)

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width
