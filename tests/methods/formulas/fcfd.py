import numpy as np
import torch
from torch import nn

from kdcompress.methods.fcfd import continued, maps_loss
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Tapped


class Teacher(nn.Module):
    """Three stages, of which the first and the last are linear."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(a, b, 1, s) for a, b, s in ((3, 4, 1), (4, 5, 2), (5, 6, 2)))
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(6, 7)

    def forward(self, x):
        return self.fc(self.three(self.act(self.two(self.one(x)))).mean((2, 3)))


torch.manual_seed(0)
TEACHER = Tapped(Teacher().eval().requires_grad_(False), torch.rand(2, 3, 8, 8), ["one", "act", "three"])


def inputs(n, generator):
    return torch.randn(n, 4, 8, 8, generator=generator), torch.randn(n, 3, 8, 8, generator=generator)


def ours(student, x):
    x = x.float()
    teacher, path = TEACHER(x), continued(TEACHER, x, TEACHER.shapes.stages[0], student)
    return maps_loss(path.stages[1:], teacher.stages[1:]) + 10 * kd_loss(path.logits, teacher.logits, 2.0)


def formula(student, x):
    """1x1 convolutions of stride 2 are matrices at every other place."""
    net = TEACHER.model
    matrices = [(m.weight.double().flatten(1).numpy(), m.bias.double().numpy()[:, None, None])
                for m in (net.one, net.two, net.three)]  # fmt: skip

    def at(number, maps):
        weight, bias = matrices[number]
        return np.einsum("oc,nchw->nohw", weight, maps) + bias

    def later(maps):
        second = np.maximum(at(1, maps[:, :, ::2, ::2]), 0)
        third = at(2, second[:, :, ::2, ::2])
        return second, third, third.mean((2, 3)) @ net.fc.weight.double().numpy().T + net.fc.bias.double().numpy()

    theirs, mine = later(at(0, x.double().numpy())), later(student.double().numpy())
    total = sum(((a - b) ** 2).mean() for a, b in zip(mine[:2], theirs[:2]))
    for s, t in zip(mine[2], theirs[2]):
        p, q = (np.exp(z / 2) / np.exp(z / 2).sum() for z in (t, s))
        total += 10 * 4 * (p * np.log(p / q)).sum() / len(student)
    return total
