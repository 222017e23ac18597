"""Network-to-Network Regularization: Enforcing Occam's Razor to Improve Generalization. Ghosh and Motani, NeurIPS 2021.

A network is kept near functions that smaller networks can express. It is drawn towards a small network that imitates
it, and that one towards a smaller one (algorithm 1, multi-level).

The authors' code has only their MNIST networks and training, and trains the levels in turns, some epochs each.
Different here: all levels take a step at the same time. The layers of the small networks follow theirs for MNIST: the
smallest has one block, the next two, and so on. The strength rises over the first epochs, where they leave out the
first one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import rising
from kdcompress.models.taps import Taps, TapShapes


def n2n_losses(levels: list[Tensor], inner: float) -> tuple[Tensor, Tensor]:
    """How far the first of ``levels`` (logits [N, K], the largest network first) is from the second, and the sum of
    what the others learn from: each imitates the one before it, and with weight ``inner`` the one after it. Mean
    squared differences over batch and classes, float32 scalars; gradients reach the network that learns alone."""
    pairs = list(zip(levels, levels[1:]))
    imitate = [F.mse_loss(small.float(), large.detach().float()) for large, small in pairs]
    approach = [F.mse_loss(large.float(), small.detach().float()) for large, small in pairs]
    return approach[0], sum(imitate, inner * sum(approach[1:], torch.zeros_like(approach[0])))


def small_net(channels: int, classes: int, blocks: int) -> nn.Sequential:
    """[N, channels, H, W] -> logits [N, classes]: ``blocks`` convolutions with stride 2, the first one 32 wide."""
    layers: list[nn.Module] = []
    for width in (32 * 2**i for i in range(blocks)):
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))


@methods.register("n2n")
class N2N(Method):
    """The student is kept near what smaller networks can express. These networks learn to imitate it."""

    class Options(MethodOptions):
        weight: float = Field(
            0.1,
            ge=0,
            description="Weight of the student's distance to the largest small network. The authors call it "
            "lambda, and use 0.1; 10 on MNIST.",
        )
        inner: float = Field(
            0.1, ge=0, description="The same weight between one small network and the next smaller one."
        )
        levels: int = Field(2, ge=1, le=4, description="Number of small networks.")
        warmup: float = rising(0.01, "The authors leave out the first of 100 epochs.")

    family = "self"
    paper = "NeurIPS 2021"
    needs = Needs(one_label=True)

    def build(self, student: TapShapes, teacher: None) -> None:
        blocks = range(self.options.levels, 0, -1)
        self.small = nn.ModuleList(small_net(student.input[0], student.classes, n) for n in blocks)

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        x = batch.x / 255 if batch.x.dtype == torch.uint8 else batch.x
        outer, inner = n2n_losses([student.logits, *(net(x.detach()) for net in self.small)], self.options.inner)
        return {"n2n": self.options.weight * outer, "small": inner}
