import numpy as np
import torch
from torch import nn

from kdcompress.methods.fgd import GcBlock, fgd_loss, relation_loss

IMAGE = (48, 64)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    BLOCKS = [nn.ModuleList(GcBlock(6) for _ in range(2)).requires_grad_(False) for _ in range(2)]
    for block in (*BLOCKS[0], *BLOCKS[1]):
        nn.init.normal_(block.change[3].weight)


def inputs(n, generator):
    maps = [torch.randn(n, 6, h, w, generator=generator) for h, w in ((6, 8), (3, 4)) for _ in range(2)]
    low = 30 * torch.rand(n, 3, 2, generator=generator)
    high = low + 2 + 15 * torch.rand(n, 3, 2, generator=generator)
    kinds = torch.tensor([1.0, 1.0, 2.0]).expand(n, 3)[..., None]
    objects = torch.cat([low, high, 0 * kinds, kinds], 2)
    return *maps, torch.cat([objects, torch.zeros(n, 1, 6)], 1)


def ours(student, teacher, coarse, teachers, y):
    maps = [(student, teacher), (coarse, teachers)]
    foreground, background, attention = fgd_loss(maps, y, IMAGE, 0.5)
    return foreground + 0.5 * background + 0.1 * attention + 0.01 * relation_loss(maps, *BLOCKS)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def looks(x):
    """Of a map [C, H, W]: its spatial and its channel attention."""
    places = softmax(np.abs(x).mean(0).ravel() / 0.5).reshape(x.shape[1:]) * x[0].size
    return places, softmax(np.abs(x).mean((1, 2)) / 0.5) * len(x)


def related(x, block):
    weights = softmax((block.weigh.weight.double().numpy().ravel()[:, None, None] * x).sum(0).ravel())
    summary = x.reshape(len(x), -1) @ weights
    first, norm, _, last = block.change
    inner = first.weight.double().numpy() @ summary + first.bias.double().numpy()
    inner = (inner - inner.mean()) / np.sqrt(inner.var() + norm.eps)
    inner = np.maximum(inner, 0)  # the norm's own weights are 1 and 0
    return x + (last.weight.double().numpy() @ inner + last.bias.double().numpy())[:, None, None]


def formula(*tensors):
    *maps, objects = (x.double().numpy() for x in tensors)
    total, all_places = 0.0, 6 * 8 + 3 * 4
    for n in range(len(objects)):
        for level, (s, t) in enumerate((maps[:2], maps[2:])):
            s, t = s[n], t[n]
            channels, height, width = t.shape
            mask, crowded = np.zeros((height, width)), np.zeros((height, width), bool)
            for x1, y1, x2, y2, _, kind in objects[n]:
                cells = [
                    (i, j)
                    for i in range(height)
                    for j in range(width)
                    if i + 1 > y1 * height / 48
                    and i < y2 * height / 48
                    and j + 1 > x1 * width / 64
                    and j < x2 * width / 64
                ]
                area = (np.ceil(y2 * height / 48) - np.floor(y1 * height / 48)) * (
                    np.ceil(x2 * width / 64) - np.floor(x1 * width / 64)
                )
                for cell in cells:
                    if kind == 1:
                        mask[cell] = max(mask[cell], 1 / area)
                    elif kind == 2:
                        crowded[cell] = True
            empty = (mask == 0) & ~crowded
            (where, which), (mine, my) = looks(t), looks(s)
            scale = 256 / channels
            for i, j in np.ndindex(height, width):
                apart = scale * sum(which[c] * where[i, j] * (t[c, i, j] - s[c, i, j]) ** 2 for c in range(channels))
                total += mask[i, j] * apart + (0.5 * apart / empty.sum() if empty[i, j] else 0.0)
            total += 0.1 * (scale * np.abs(which - my).sum() + 22_300 / all_places * np.abs(where - mine).sum())
            apart = (related(t, BLOCKS[1][level]) - related(s, BLOCKS[0][level])) ** 2
            total += 0.01 * scale * 22_300 / all_places * apart.sum()
    return total / len(objects)
