import math

import torch

from kdcompress.methods.tf_kd import tf_kd_loss


def inputs(n, generator):
    return torch.randn(n, 7, generator=generator) * 3, torch.randint(0, 7, (n,), generator=generator)


def ours(student, y):
    return tf_kd_loss(student, y, 0.99, 20.0)


def formula(student, y):
    total = 0.0
    for row, label in zip(student.tolist(), y.tolist()):
        p = [(0.99 if k == label else 0.01 / 6) ** (1 / 20) for k in range(7)]
        q = [math.exp(z / 20) for z in row]
        total += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q))
    return 400 * total / len(student)
