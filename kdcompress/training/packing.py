"""How a tensor of an answer lies in a file: whole, or of its probabilities the largest alone.

``Largest`` keeps of K logits z the k that are largest, with their classes, and one value r that stands for each of the
others: the logarithm of the mean of their exp. So the k probabilities are what they were, and the others, which lose
nothing of their sum, have equal shares of it: the soft labels of FKD (Shen and Xing, ECCV 2022, arXiv:2112.01528,
section 3.2, "marginal smoothing with top-K"), kept as logits so that methods with a temperature read them too.

All values but the largest are kept as differences to that one: fp16 rounds small differences, which matter most, least.
An answer takes 2 (k + 1) bytes of values and k (1, 2 or 4) bytes of classes, for up to 256, 32,768 or more of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

TEMPERATURES = (1.0, 4.0)  # at which what a packing changes is told: that of the task, and kd's
SMALLEST = -65504.0  # of fp16


class Packing(Protocol):
    """Of a tensor [N, width] of ``dtype``."""

    @property
    def width(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def bytes(self) -> int:
        """Of a row."""
        ...

    def packed(self, values: Tensor) -> Tensor:
        """uint8 [N, bytes]."""
        ...

    def unpacked(self, packed: Tensor) -> Tensor:
        """[N, width] of ``dtype``."""
        ...

    def facts(self) -> tuple[str, str]:
        """What is packed and how, for the name of a file that holds it."""
        ...


@dataclass(frozen=True)
class Whole:
    name: str
    width: int
    dtype: torch.dtype
    stored: torch.dtype

    @property
    def bytes(self) -> int:
        return self.width * self.stored.itemsize

    def packed(self, values: Tensor) -> Tensor:
        return narrowed(values, self.stored).contiguous().view(torch.uint8)

    def unpacked(self, packed: Tensor) -> Tensor:
        return _viewed(packed, self.stored).to(self.dtype)

    def facts(self) -> tuple[str, str]:
        return str((self.name, self.width, self.dtype)), str(self.stored)


@dataclass(frozen=True)
class Largest:
    """``most`` of the ``width`` logits, fewer than all."""

    name: str
    width: int
    dtype: torch.dtype
    most: int

    @property
    def classes(self) -> torch.dtype:
        """The integers that number the classes."""
        return torch.uint8 if self.width <= 256 else torch.int16 if self.width <= 32_768 else torch.int32

    @property
    def bytes(self) -> int:
        return 2 * (self.most + 1) + self.most * self.classes.itemsize

    def packed(self, values: Tensor) -> Tensor:
        z = values.float()
        top, index = z.topk(self.most, dim=1)
        others = z.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True) - _log(self.width - self.most)
        halves = torch.cat([top[:, :1], top[:, 1:] - top[:, :1], others - top[:, :1]], 1)
        parts = narrowed(halves, torch.float16).contiguous(), index.to(self.classes).contiguous()
        return torch.cat([part.view(torch.uint8) for part in parts], 1)

    def unpacked(self, packed: Tensor) -> Tensor:
        halves, index = packed.split([2 * (self.most + 1), self.most * self.classes.itemsize], 1)
        values, places = _viewed(halves, torch.float16).float(), _viewed(index, self.classes).long()
        first = values[:, :1]
        z = (first + values[:, -1:]).repeat(1, self.width)
        top = torch.cat([first, first + values[:, 1:-1]], 1)
        return z.scatter_(1, places, top).to(self.dtype)

    def facts(self) -> tuple[str, str]:
        return str((self.name, self.width, self.dtype)), f"the {self.most} largest"


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype != torch.float16:
        return tensor.to(dtype)
    return tensor.clamp(SMALLEST, -SMALLEST).to(dtype)


def _viewed(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes [N, n] as values. They are copied first: a row of a larger one may begin anywhere."""
    if not packed.shape[1]:  # of a network without logits: PyTorch views no empty rows
        return packed.new_empty(packed.shape, dtype=dtype)
    return packed.clone(memory_format=torch.contiguous_format).view(dtype)


def _log(number: int) -> float:
    return float(torch.tensor(float(number)).log())


def change(before: Tensor, after: Tensor) -> Tensor:
    """What packing does to logits [N, K], before and after it: for each of ``TEMPERATURES`` T, summed over the rows,
    the share of the probability softmax(z / T) that is at another class then (half of the sum of |p - p'|, 0 to 1) and
    KL(p || p') in nats. float32 [temperatures, 2], on the device."""
    found = []
    for temperature in TEMPERATURES:
        log_p, log_q = ((z.float() / temperature).log_softmax(1) for z in (before, after))
        p = log_p.exp()
        found.append(torch.stack([(p - log_q.exp()).abs().sum() / 2, (p * (log_p - log_q)).nan_to_num().sum()]))
    return torch.stack(found)


def told(total: Tensor, rows: int) -> dict[str, float]:
    """The means of ``change`` over so many rows, by their names."""
    means = (total / max(1, rows)).tolist()
    return {
        "answers": rows,
        **{f"moved_t{t:g}": moved for t, (moved, _) in zip(TEMPERATURES, means)},
        **{f"kl_t{t:g}": kl for t, (_, kl) in zip(TEMPERATURES, means)},
    }


def said(most: int, classes: int, error: dict[str, float]) -> str:
    """What keeping the largest probabilities alone changes, in words."""
    moved = " and ".join(f"{100 * error[f'moved_t{t:g}']:.2g} % (T = {t:g})" for t in TEMPERATURES)
    spread = f"the {most} largest of {classes:,} probabilities, the rest spread evenly"
    return f"{spread}: {moved} of the probability is at another class, over {error['answers']:,} answers"
