import math

import torch

from kdcompress.methods.dkd import dkd_loss


def inputs(n, generator):
    student, teacher = torch.randn(n, 7, generator=generator) * 3, torch.randn(n, 7, generator=generator) * 3
    return student, teacher, torch.randint(0, 7, (n,), generator=generator)


def ours(student, teacher, y):
    tckd, nckd = dkd_loss(student, teacher, y, 4.0)
    return tckd + 8 * nckd


def formula(student, teacher, y):
    total = 0.0
    for s, t, label in zip((student / 4).tolist(), (teacher / 4).tolist(), y.tolist()):
        p, q = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (t, s))
        a, b = p[label], q[label]
        target = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
        others = [(p[k] / (1 - a), q[k] / (1 - b)) for k in range(7) if k != label]
        total += target + 8 * sum(u * math.log(u / v) for u, v in others)
    return 16 * total / len(student)
