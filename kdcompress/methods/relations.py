"""What the methods on relations share: the widths of pooled features, products, cosines, neighbours in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcompress.errors import UsageError
from kdcompress.methods.connect import in_float32
from kdcompress.models.taps import Taps, TapShapes


def pooled_widths(student: TapShapes, teacher: TapShapes) -> tuple[int, int]:
    """The widths of both pooled features. Raises UsageError where a network has none."""
    if student.pooled is None or teacher.pooled is None:
        raise UsageError(
            f"The {'student' if student.pooled is None else 'teacher'} has no pooled feature to compare images by.",
            allowed="networks that end in a linear layer, whose input the pooled feature is",
            hint="use a method on logits or stages instead, such as kd or sp",
        )
    return student.pooled, teacher.pooled


def pooled(*members: Taps) -> list[Tensor]:
    """The pooled features of networks that were found to have one."""
    return [taps.pooled for taps in members if taps.pooled is not None]


def products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of a [..., N, D] and b [..., M, D]: float32 [..., N, M], under autocast too."""
    with in_float32(a):
        return a.float() @ b.float().mT


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities of the rows of a [N, D] and b [M, D]: float32 [N, M]. Rows of zeros give 0."""
    return products(F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1))


@torch.no_grad()
def neighbours(x: Tensor, count: int) -> Tensor:
    """Which rows of x [N, D] are the ``count`` nearest to which by their cosine, a row itself left out: float32 [N, N],
    1 / k where row j is one of the k nearest to row i, else 0. There are k = N - 1 where there are fewer than ``count``
    others."""
    near = cosines(x, x)
    k = min(count, len(x) - 1)
    near.fill_diagonal_(-torch.inf)
    return torch.zeros_like(near).scatter_(1, near.topk(k, 1).indices, 1 / max(1, k))
