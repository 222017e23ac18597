import numpy as np
import torch

from kdcompress.methods.mgd import generator as block
from kdcompress.methods.mgd import mgd_loss

with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    BLOCK = block(3, 4).requires_grad_(False)


def inputs(n, generator):
    maps = [torch.randn(n, 3, 5, 4, generator=generator) for _ in range(2)]
    return *maps, torch.rand(n, 1, 5, 4, generator=generator) >= 0.5


def ours(student, teacher, keep):
    return mgd_loss(student, teacher, keep, BLOCK)


def convolved(x, layer):
    weight, bias = layer.weight.double().numpy(), layer.bias.double().numpy()
    (_, height, width), padded = x.shape, np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = {(i, j): padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)}
    return np.stack(
        [b + sum((w[:, i, j, None, None] * v).sum(0) for (i, j), v in windows.items()) for w, b in zip(weight, bias)]
    )


def formula(student, teacher, keep):
    total = 0.0
    for s, t, k in zip(*(x.double().numpy() for x in (student, teacher, keep))):
        made = convolved(np.maximum(convolved(s * k, BLOCK[0]), 0), BLOCK[2])
        total += ((made - t) ** 2).sum()
    return total / teacher.numel()
