"""What the heads of detectors have in common: convolutions shared by the levels of a pyramid, and what is done with
what they give."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from kdcompress.data.objects import CLASS, WIDTH
from kdcompress.errors import UsageError
from kdcompress.models.detectors.pyramid import OnPyramid, Pyramid

SURE = 1e-6  # a share that counts as certain, in a logit
LEAST = 2**-14  # product of shares whose root is taken: of less it would show how a runtime rounds; exact in fp16
PRIOR = 0.01  # the share of an untrained network's scores
MOST = 4096  # of any number in a detector's options


class Tower(nn.Module):
    """``depth`` convolutions of 3x3, each with a batch norm a level and a ReLU."""

    def __init__(self, width: int, levels: int, depth: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels)) for _ in range(depth))
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: int) -> Tensor:
        return self.ended(self.steps(x, level)[-1])

    def steps(self, x: Tensor, level: int, first: int = 0) -> list[Tensor]:
        """What the convolutions from number ``first`` on are given, and what the last one gives, all of them before
        their activation: maps [N, width, h, w], of which ``x`` is the first."""
        found = [x]
        for i in range(first, len(self.convolutions)):
            given = found[-1].relu() if i else x
            found.append(self.norms[i][level](self.convolutions[i](given)))  # type: ignore[index]
        return found

    def ended(self, x: Tensor) -> Tensor:
        """What a tower whose steps end with ``x`` gives."""
        return x.relu() if len(self.convolutions) else x


Steps = dict[str, list[list[Tensor]]]
"""For each tower, level by level, its steps."""


class Towered(OnPyramid):
    """float [N, C, H, W] -> an answer, for images of any size, by way of a tower for the classes and one for the
    boxes."""

    def __init__(self, pyramid: Pyramid, width: int, levels: int, depth: int):
        super().__init__(pyramid)
        self.towers = nn.ModuleDict({name: Tower(width, levels, depth) for name in ("classes", "boxes")})
        self.width, self.depth = width, depth

    def forward(self, x: Tensor) -> Any:
        maps = self.pyramid(x)
        steps = {name: [tower.steps(map, i) for i, map in enumerate(maps)] for name, tower in self.towers.items()}  # type: ignore[operator]
        return self.answer(steps, (x.shape[-2], x.shape[-1]))

    def answer(self, steps: Steps, size: tuple[int, int]) -> Any:
        """The answer to an image of this height and width whose towers' steps end so."""
        raise NotImplementedError

    def ends(self, steps: Steps) -> list[tuple[Tensor, Tensor]]:
        """Of each level, what the towers of the classes and of the boxes give."""
        both = [[tower.ended(level[-1]) for level in steps[name]] for name, tower in self.towers.items()]  # type: ignore[operator]
        return list(zip(*both, strict=True))


def begin(logits: nn.Conv2d, *others: nn.Conv2d) -> None:
    """The weights of a head's last layers before the training (RetinaNet, section 4.1): all classes are rare."""
    for layer in (logits, *others):
        assert layer.bias is not None
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR) if layer is logits else 0.0)


def flat(map: Tensor, width: int = 0) -> Tensor:
    """[N, A * width, h, w], of A boxes a place, as [N, h * w * A, width]; without a ``width`` A is 1."""
    rows = map.flatten(2).transpose(1, 2)
    return rows.reshape(rows.shape[0], -1, width) if width else rows  # len() would make a number of the batch


def grid(map: Tensor, stride: int) -> Tensor:
    """[h * w, 2]: x and y, in pixels of the image, of the middles of a map's cells, row by row."""
    height, width = map.shape[-2:]
    y, x = (stride * (torch.arange(n, device=map.device) + 0.5) for n in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)


def picked(y: Tensor, index: Tensor) -> Tensor:
    """Of objects [N, M, 6] those that ``index`` int64 [N, P] numbers: [N, P, 6]."""
    return y.gather(1, index[..., None].expand(-1, -1, y.shape[2]))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4], one with one; 0 where both have no area."""
    both, union = _shared(a, b)
    return both / union


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - generalised intersection over union of boxes [..., 4], one with one (Rezatofighi et al., CVPR 2019,
    arXiv:1902.09630), float32 0 to 2. torchvision's waits for the device at each step."""
    a, b = a.float(), b.float()
    both, union = _shared(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=1e-6)
    return 1 - both / union + (hull - union) / hull


def _shared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The areas of the intersection and of the union."""
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (a, b)]
    return both, (areas[0] + areas[1] - both).clamp(min=1e-6)


def focal_loss(logits: Tensor, objects: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
    """Focal loss of the classes (RetinaNet, section 3), summed over the places that are not ``ignored`` bool [N, P], a
    float32 scalar: of logits [N, P, K] whose class is that of ``objects`` [N, P, 6] where ``positive`` bool [N, P]."""
    numbers = objects[..., CLASS].long().clamp(min=0)
    classes = F.one_hot(numbers, logits.shape[2]) * positive[..., None]
    loss: Tensor = sigmoid_focal_loss(logits.float(), classes.float()) * ~ignored[..., None]
    return loss.sum()


def quality_focal(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss (Generalized Focal Loss, NeurIPS 2020, equation 2): |target - sigmoid|^beta times their binary
    cross-entropy, summed over the classes, so that it is 0 where both are sure that nothing is there. ``logits`` and
    ``targets`` (0..1) [..., K] -> float32 [...]."""
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((targets - logits.sigmoid()).abs() ** beta * entropy).sum(-1)


def or_nearest(fits: Tensor, off: Tensor, strides: Tensor) -> Tensor:
    """Which places boxes have, bool [N, M, P]: those that ``fits`` says, or where there is none, for the box is small,
    the one that its centre is the nearest to: ``off`` [N, M, P] pixels, and half the place's stride [P]."""
    nearest = F.one_hot((off + strides / 2).argmin(2), len(strides)).bool()
    return torch.where(fits.any(2, keepdim=True), fits, nearest)


def clamped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4], x1, y1, x2, y2 in pixels, cut at the borders of an image of this height and width."""
    height, width = float(size[0]), float(size[1])  # of one type: the exporter takes no mixture
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)], -1)


def log_odds(share: Tensor) -> Tensor:
    """Logits whose sigmoid is a share, given as its logarithm."""
    return share - (-share.clamp(max=math.log1p(-SURE)).expm1()).log()


def both(shares: Tensor, others: Tensor) -> Tensor:
    """The geometric mean of two shares, as a score; at least 0.008."""
    return (shares * others).clamp(min=LEAST).sqrt()


def check_masks(y: Tensor, cells: int) -> None:
    """Raises UsageError where objects [N, M, W] have no masks of so many cells behind their columns."""
    found = y.shape[2] - WIDTH
    if found != cells:
        got = f"masks of {found} cells" if found > 0 else "boxes alone"
        raise UsageError("The network learns masks.", got=got, allowed=f"{cells} cells an object")


def check_options(**given: tuple[float, float]) -> None:
    """Raises UsageError for an option that is not a number, is below its least value or is far too large."""
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= MOST:
            where, allowed = f"options.{name}", f"{least} to {MOST}"
            raise UsageError("The detector cannot be made so.", where=where, got=value, allowed=allowed)
