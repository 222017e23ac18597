import numpy as np
import torch

from kdcompress.methods.feature_pretraining import global_loss, local_loss

QUEUE = torch.nn.functional.normalize(torch.randn(12, 6, generator=torch.Generator().manual_seed(5)), dim=1)
KNOWN = 9
T = 0.5


def inputs(n, generator):
    sizes = (n, 6), (n, 6), (n, 3, 4, 4), (n, 5, 4, 4)
    return tuple(torch.randn(*size, generator=generator) for size in sizes)


def ours(student, teacher, map, target):
    return global_loss(student, teacher, QUEUE, KNOWN, T) + local_loss(map, target, T)


def unit(x):
    return x / np.sqrt((x * x).sum())


def kl(teacher, student):
    """Of two lists of similarities."""
    q, p = (np.exp(np.array(x) / T) / np.exp(np.array(x) / T).sum() for x in (teacher, student))
    return sum(a * np.log(a / b) for a, b in zip(q, p))


def formula(student, teacher, map, target):
    student, teacher, map, target = (x.double().numpy() for x in (student, teacher, map, target))
    keys = QUEUE.double().numpy()[:KNOWN]
    total = 0.0
    for s, t, f, g in zip(student, teacher, map, target):
        total += kl([unit(t) @ key for key in keys], [unit(s) @ key for key in keys])
        ours, theirs = ([unit(x[:, i, j]) for i in range(4) for j in range(4)] for x in (f, g))
        rows = [kl([b @ c for c in theirs], [a @ c for c in ours]) for a, b in zip(ours, theirs)]
        total += np.mean(rows)
    return total / len(student)
