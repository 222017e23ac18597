"""Function-Consistent Feature Distillation (FCFD). Liu, Kan, Shan and Chen, ICLR 2023, arXiv:2304.11832.

What counts in a feature is what later layers make of it. So each of the student's stages, but for the last, goes on
through the teacher's later layers, and what these then say learns to be what the teacher says.

The teacher is not taken apart: it runs on the same images, and is given the student's map in place of its own. So each
of these stages takes a whole pass of the teacher. What goes past the stage (a class token) is the teacher's own. A
teacher in which this cannot be done is refused.

Different here: the teacher is in eval mode (the public code's batch norms take their statistics from each batch).
The student's maps are resized where the sizes differ, and brought to the teacher's by a convolution. Not here: the
teacher's maps through the student's later layers, the loss of the pooled features, and a weight of the labels that
rises. The paper adds KD of the student's own logits: for that, name ``kd`` as a second method.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import rising, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps import Stage, Tapped, Taps, TapShapes


class InPlace:
    """A hook that gives ``map`` [N, C, H, W] in place of what a module gives; ``seen`` is whether it could."""

    def __init__(self, map: Tensor):
        self.map, self.seen = map, False

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        map = self.map.to(output.dtype)
        for found in (map, map.permute(0, 2, 3, 1)):
            if found.shape == output.shape:
                self.seen = True
                return found.clone()  # the network may write to it
        tokens = map.flatten(2).mT
        if output.ndim == 3 and output.shape[2] == tokens.shape[2] and output.shape[1] >= tokens.shape[1]:
            self.seen = True
            return torch.cat([output[:, : output.shape[1] - tokens.shape[1]], tokens], 1)
        return None


class Images:
    """A hook that keeps what a network was given last, but in no copy of the network."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"x": None}

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.x = args[0]


def continued(teacher: Tapped, x: Tensor, stage: Stage, map: Tensor) -> Taps | None:
    """The taps of the teacher on x [N, C, H, W] where ``map`` [N, C, H, W] takes the place of what the stage gives.
    None where the stage gives more than a map. Up to that stage the taps are the teacher's own."""
    hook = InPlace(map)
    handle = teacher.model.get_submodule(stage.path).register_forward_hook(hook)
    try:
        taps = teacher(x)
    finally:
        handle.remove()
    return taps if hook.seen else None


@torch.no_grad()
def tried(teacher: Tapped, pairs: list[tuple[int, int]]) -> Taps:
    """The taps of the teacher on two images of random pixels. Raises UsageError where its own map cannot be given back
    to a stage of ``pairs`` but the last, or where the last does not depend on that map."""
    parameter = next(teacher.model.parameters())
    x = torch.randn(2, *teacher.shapes.input, generator=torch.Generator().manual_seed(0)).to(parameter)
    deepest = pairs[-1][1]
    with evaluating(teacher.model):
        taps = teacher(x)
        last = taps.stages[deepest]
        for _, index in pairs[:-1]:
            stage, map = teacher.shapes.stages[index], taps.stages[index]
            own, other = (continued(teacher, x, stage, each) for each in (map, torch.zeros_like(map)))
            away = [None if t is None else float((t.stages[deepest] - last).abs().max()) for t in (own, other)]
            least = 1e-4 * float(last.abs().max())
            if stage.times > 1 or away[0] is None or away[1] is None or not away[0] <= least < away[1]:
                raise UsageError(
                    "fcfd lets the student's maps go on through the teacher's later layers: no other map can take this "
                    "one's place.",
                    where=type(teacher.model).__name__,
                    got=str(stage),
                    hint="name other modules in the recipe (teacher.taps), or use another method on stages, such as "
                    "reviewkd",
                )
    return taps


class Bridge(nn.Module):
    """A map of the student's [N, channels, h, w] as one of the teacher's [N, C, H, W]: a 3x3 convolution, batch norm
    and, where the teacher's has no negative values, a leaky ReLU."""

    def __init__(self, channels: int, stage: Stage, signed: bool):
        super().__init__()
        layers = [nn.Conv2d(channels, stage.channels, 3, padding=1, bias=False), nn.BatchNorm2d(stage.channels)]
        self.layers = nn.Sequential(*layers, nn.Identity() if signed else nn.LeakyReLU(0.1))
        self.size = (stage.height, stage.width)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2] - self.size[0], x.shape[-1] - self.size[1]) >= 0:
            return self.layers(F.adaptive_avg_pool2d(x, self.size))
        return self.layers(F.interpolate(x, self.size, mode="nearest"))


def maps_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Squared difference of maps [N, C, H, W], averaged over the elements of each and summed over the maps; a float32
    scalar."""
    return torch.stack([F.mse_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True)]).sum()


@methods.register("fcfd")
class FCFD(Method):
    """The student's stages learn to be the teacher's for the teacher's later layers: what these make of them counts."""

    class Options(MethodOptions):
        features: float = Field(
            5.0,
            ge=0,
            description="Weight of the differences of maps: of the student's stages, and of what the teacher's later "
            "layers make of them. Summed over the stages. The public code uses 5.",
        )
        logits: float = Field(
            1.0,
            ge=0,
            description="Weight of the divergence of what the teacher says at the end of each path. The public code "
            "uses 1.",
        )
        temperature: float = softening(8.0, "The public code uses 8.", logits="teacher's logits, with each map,")
        warmup: float = rising(1 / 12, "The public code uses 20 of 240 epochs, for the maps.")

    family = "feature"
    paper = "arXiv:2304.11832"
    needs = Needs(student="logits+stages", teacher="logits+stages", one_label=True)

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> tuple[Tapped, Images]:
        """Returns the teacher, not as a module of this one, and what it was given last."""
        assert teacher is not None
        images = Images()
        teacher.model.register_forward_pre_hook(images)
        return teacher, images

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        stages = [teacher.stages[t] for _, t in self.pairs]
        if len(stages) < 2:
            raise UsageError("fcfd needs two pairs of stages: after one there are no later layers.", got=str(stages[0]))
        taught, images = self.attached
        maps, images.x = tried(taught, self.pairs).stages, None
        self.bridges = nn.ModuleList(
            Bridge(student.stages[s].channels, teacher.stages[t], signed=bool(maps[t].min() < 0)) for s, t in self.pairs
        )

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        (taught, images), o, own = self.attached, self.options, [t for _, t in self.pairs]
        bridged = [bridge(student.stages[s]) for bridge, (s, _) in zip(self.bridges, self.pairs)]
        assert images.x is not None  # the teacher has just run
        function = paths = torch.zeros((), device=teacher.logits.device)
        for place, (t, map) in enumerate(zip(own[:-1], bridged)):
            path = continued(taught, images.x, taught.shapes.stages[t], map)
            assert path is not None  # it was tried
            later = own[place + 1 :]
            function = function + maps_loss([path.stages[i] for i in later], [teacher.stages[i] for i in later])
            paths = paths + kd_loss(path.logits, teacher.logits, o.temperature)
        images.x = None
        return {
            "appearance": o.features * maps_loss(bridged, [teacher.stages[t] for t in own]),
            "function": o.features * function,
            "paths": o.logits * paths,
        }
