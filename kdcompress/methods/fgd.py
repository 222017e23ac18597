"""Focal and Global Knowledge Distillation for Detectors (FGD). Yang, Li, Jiang, Gong, Yuan, Zhao and Yuan, CVPR 2022,
arXiv:2111.11837.

The focal part compares maps inside and outside of the objects apart, where and in which channels the teacher looks; the
global part compares what a block says that relates each place with all others (GcBlock).

The paper sums over channels and places. Here each sum is scaled to the paper's size, 256 channels and the 22,300 places
that five levels of an image of 800 x 1333 pixels have: its weights mean what they mean there, and depend on neither
width nor resolution. Ours: an object's cells are those that its box touches (the public code takes a row and a column
more); a crowd is neither foreground nor background.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.data.objects import BOX, CROWD, KIND, OBJECT
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import adapter, same_size
from kdcompress.models.taps import Taps, TapShapes

CHANNELS, PLACES = 256, 22_300  # of the paper's pyramid, and in all its levels


class GcBlock(nn.Module):
    """Each place with a summary of all added to it (Cao et al., arXiv:1904.11492): the mean weighted by a softmax over
    the places, through two layers. [N, C, H, W] -> the same shape. At first it changes nothing."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.weigh = nn.Conv2d(channels, 1, 1, bias=False)
        self.change = nn.Sequential(
            nn.Linear(channels, inner), nn.LayerNorm(inner), nn.ReLU(), nn.Linear(inner, channels)
        )
        nn.init.kaiming_normal_(self.weigh.weight)
        for value in self.change[3].parameters():
            nn.init.zeros_(value)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weigh(x).float().flatten(2).softmax(2)  # [N, 1, H * W]
        summary = (x.float().flatten(2) * weights).sum(2)
        return x.float() + self.change(summary).float()[..., None, None]


def attention(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Where a map [N, C, H, W] is active, [N, 1, H, W], and in which channels, [N, C, 1, 1]: softmaxes of mean absolute
    values, times the number of their elements (equations 5 to 8)."""
    size, (height, width) = x.abs(), x.shape[2:]
    places = (size.mean(1).flatten(1) / temperature).softmax(1).view(-1, 1, height, width) * (height * width)
    channels = (size.mean((2, 3)) / temperature).softmax(1)[..., None, None] * x.shape[1]
    return places, channels


def masks(y: Tensor, image: tuple[int, int], cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The foreground, each cell with 1 over the area of the smallest object that touches it, and the background, the
    cells of an image with 1 over their number (equations 3 and 4): float32 [N, 1, H, W].

    ``y`` float [N, M, 6] as in ``data.objects``, ``image`` and ``cells`` height and width, in pixels and of the map.
    """
    scales = (cells[1] / image[1], cells[0] / image[0]) * 2  # numbers: a tensor would have to be sent to the device
    boxes = torch.stack([side * scale for side, scale in zip(y[..., BOX].unbind(-1), scales)], -1)
    kind = y[..., KIND]
    low, high = boxes[..., :2].floor(), boxes[..., 2:].ceil()
    row, column = (torch.arange(n, device=y.device) for n in cells)
    across = (column >= low[..., :1]) & (column < high[..., :1])  # [N, M, W]
    along = (row >= low[..., 1:]) & (row < high[..., 1:])
    touched = along[..., None] & across[..., None, :]
    share = 1 / (high - low).clamp(min=1.0).prod(2) * (kind == OBJECT)
    foreground = (touched * share[..., None, None]).amax(1)
    crowd = (touched & (kind == CROWD)[..., None, None]).any(1)
    rest = ((foreground == 0) & ~crowd).float()
    background = rest / rest.sum((1, 2), keepdim=True).clamp(min=1.0)
    return foreground[:, None], background[:, None]


def focal_loss(
    student: Tensor, teacher: Tensor, foreground: Tensor, background: Tensor, t: float
) -> tuple[Tensor, ...]:
    """The focal part of a level (equations 9 and 10), of maps [N, C, H, W] and their masks [N, 1, H, W]; ``t`` is the
    temperature. Four float32 scalars: the squared difference, weighted by the teacher's attention, in the foreground
    and in the background, scaled to 256 channels; the L1 difference of the channels' attention, scaled so, too; that of
    the places' attention, summed over the places. All are means over the images."""
    (places, channels), (their_places, their_channels) = attention(student, t), attention(teacher, t)
    apart = ((teacher - student).square() * their_channels).mean(1, keepdim=True) * their_places * CHANNELS
    looks = (channels - their_channels).abs().mean((1, 2, 3)) * CHANNELS, (places - their_places).abs().sum((1, 2, 3))
    parts = (apart * foreground).sum((1, 2, 3)), (apart * background).sum((1, 2, 3)), *looks
    return tuple(part.mean() for part in parts)


def fgd_loss(
    maps: Sequence[tuple[Tensor, Tensor]], y: Tensor, image: tuple[int, int], temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Foreground, background and attention of all levels' ``maps`` (student, teacher), [N, C, H, W] of one size each;
    ``y`` float [N, M, 6], ``image`` height and width in pixels. Float32 scalars, averaged over the images; see
    ``focal_loss``, and above for the scale."""
    found, scale = [], PLACES / sum(t.shape[2] * t.shape[3] for _, t in maps)
    for student, teacher in maps:
        both = masks(y, image, (teacher.shape[2], teacher.shape[3]))
        found.append(focal_loss(student.float(), teacher.float(), *both, temperature))
    foreground, background, channels, places = (torch.stack(parts).sum() for parts in zip(*found, strict=True))
    return foreground, background, channels + scale * places


def relation_loss(maps: Sequence[tuple[Tensor, Tensor]], ours: nn.ModuleList, theirs: nn.ModuleList) -> Tensor:
    """The global part (equation 12) of such ``maps``: the squared difference of what the student's and the teacher's
    ``GcBlock`` of each level make of them, summed over channels and places of all levels, scaled as above. A float32
    scalar, averaged over the images."""
    apart = torch.stack(
        [
            (our(s.float()) - their(t.float())).square().sum((1, 2, 3)).mean()
            for our, their, (s, t) in zip(ours, theirs, maps)
        ]
    )
    return apart.sum() * (CHANNELS * PLACES / sum(t[0].numel() for _, t in maps))


@methods.register("fgd")
class FGD(Method):
    """The student's levels learn the teacher's, objects and background apart, weighted by where the teacher looks; and
    how each place is related to all others."""

    class Options(MethodOptions):
        foreground: float = Field(
            1e-3,
            ge=0,
            description="Weight of the difference inside of objects, the paper's alpha. It uses 1e-3 for one-stage "
            "detectors with anchors, 1.6e-3 for FCOS and 5e-5 for two-stage detectors.",
        )
        background: float = Field(
            5e-4, ge=0, description="Weight of the difference outside, the paper's beta. It uses 5e-4, 8e-4 and 2.5e-5."
        )
        attention: float = Field(
            5e-4,
            ge=0,
            description="Weight of the difference of where the networks look, the paper's gamma. It uses 5e-4, 8e-4 "
            "and 5e-5.",
        )
        relation: float = Field(
            5e-6, ge=0, description="Weight of the global part, the paper's lambda. It uses 5e-6, 8e-6 and 5e-7."
        )
        temperature: float = Field(
            0.5,
            ge=0.01,
            le=1000,
            description="Temperature: what the attention is made of is divided by it before the softmax. The paper "
            "uses 0.5, and 0.8 for FCOS.",
        )

    family = "feature"
    paper = "arXiv:2111.11837"
    needs = Needs(student="stages", teacher="stages", boxes=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.adapters = nn.ModuleList(adapter(a, b) for a, b in widths)
        self.ours, self.theirs = (nn.ModuleList(GcBlock(b) for _, b in widths) for _ in range(2))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        maps = [
            same_size(adapt(student.stages[s]), teacher.stages[t]) for adapt, (s, t) in zip(self.adapters, self.pairs)
        ]
        image = batch.x.shape[2], batch.x.shape[3]
        foreground, background, looks = fgd_loss(maps, batch.y, image, o.temperature)
        return {
            "foreground": o.foreground * foreground,
            "background": o.background * background,
            "attention": o.attention * looks,
            "relation": o.relation * relation_loss(maps, self.ours, self.theirs),
        }
