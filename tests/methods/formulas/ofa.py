import math

import torch

from kdcompress.methods.ofa import ofa_loss


def inputs(n, generator):
    student, teacher = (torch.randn(n, 7, generator=generator) * 3 for _ in range(2))
    return student, teacher, torch.randint(0, 7, (n,), generator=generator)


def ours(student, teacher, y):
    return ofa_loss(student, teacher, y, 1.5, 2.0)


def formula(student, teacher, y):
    total = 0.0
    for s, t, label in zip(student.double() / 2, teacher.double() / 2, y.tolist()):
        p, q = t.exp() / t.exp().sum(), s.exp() / s.exp().sum()
        for k in range(7):
            target = (1 + float(p[k])) ** 1.5 - 1 if k == label else float(p[k]) ** 1.5
            total -= target * math.log(float(q[k]))
    return total / len(y)
