import torch

from kdcompress.methods.kd import kd_loss
from kdcompress.methods.skd import pairwise_loss


def inputs(n, generator):
    maps = torch.randn(n, 5, 6, 6, generator=generator), torch.randn(n, 9, 6, 6, generator=generator)
    return *maps, *(3 * torch.randn(n, 7, generator=generator) for _ in range(2))


def ours(student, teacher, logits, theirs):
    return pairwise_loss(student, teacher, 3) + kd_loss(logits, theirs, 1.0)


def formula(student, teacher, logits, theirs):
    """Nine nodes of 2 x 2 places each; cosines by their definition."""

    def cosines(each):
        nodes = [each[:, i : i + 2, j : j + 2].double().mean((1, 2)) for i in (0, 2, 4) for j in (0, 2, 4)]
        return [float(a @ b) / float((a @ a) * (b @ b)) ** 0.5 for a in nodes for b in nodes]

    total = 0.0
    for s, t in zip(student, teacher):
        total += sum((a - b) ** 2 for a, b in zip(cosines(s), cosines(t))) / 81
    for s, t in zip(logits.double(), theirs.double()):
        p, q = (z.exp() / z.exp().sum() for z in (t, s))
        total += float((p * (p / q).log()).sum())
    return total / len(student)
