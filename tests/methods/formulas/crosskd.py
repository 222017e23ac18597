import numpy as np
import torch

from kdcompress.methods.crosskd import crosskd_loss


def inputs(n, generator):
    logits = [3 * torch.randn(n, 6, 4, generator=generator) for _ in range(2)]
    return *logits, *(2 * torch.randn(n, 6, 4, 5, generator=generator) for _ in range(2))


def boxes(bins):
    """Of four numbers each, at least a pixel wide."""
    low, size = bins[..., 0, :2].float(), bins[..., 1, :2].float().abs() + 1
    return torch.cat([low, low + size], 2)


def ours(cross, teacher, mine, theirs):
    classes, apart = crosskd_loss(cross, teacher, mine, theirs)
    return classes + apart + crosskd_loss(cross, teacher, boxes(mine), boxes(theirs))[1]


def overlap(a, b):
    """Of two boxes, and the share of their hull that neither has."""
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in range(2))
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - width * height
    hull = np.prod([max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in range(2)])
    return width * height / union, 1 - union / hull


def formula(cross, teacher, mine, theirs):
    p, q = (1 / (1 + np.exp(-x.double().numpy())) for x in (cross, teacher))
    bins = [np.exp(x.double().numpy()) for x in (mine, theirs)]
    corners = [boxes(x).double().numpy() for x in (mine, theirs)]
    total = weight = 0.0
    for n, place in np.ndindex(p.shape[:2]):
        for a, b in zip(p[n, place], q[n, place]):
            total -= abs(a - b) * (b * np.log(a) + (1 - b) * np.log(1 - a))
        best = max(q[n, place])
        for s, t in zip(bins[0][n, place], bins[1][n, place]):
            s, t = s / s.sum(), t / t.sum()
            total += best * sum(b * (np.log(b) - np.log(a)) for a, b in zip(s, t)) / 4
        shared, empty = overlap(corners[0][n, place], corners[1][n, place])
        total += best * (1 - shared + empty)
        weight += best
    return total / weight
