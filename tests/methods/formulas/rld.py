import math

import torch

from kdcompress.methods.rld import confidence_loss, correlation_loss


def inputs(n, generator):
    student, teacher = torch.randn(n, 7, generator=generator) * 3, torch.randn(n, 7, generator=generator) * 3
    return student, teacher, torch.randint(0, 7, (n,), generator=generator)


def ours(student, teacher, y):
    return confidence_loss(student, teacher, y, 1.5) + 8 * correlation_loss(student, teacher, y, 4.0)


def probabilities(row, temperature, classes):
    exps = {k: math.exp(row[k] / temperature) for k in classes}
    return {k: e / sum(exps.values()) for k, e in exps.items()}


def formula(student, teacher, y):
    total = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), y.tolist()):
        a, b = max(probabilities(t, 1.5, range(7)).values()), probabilities(s, 1.5, range(7))[label]
        total += 1.5**2 * (a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)))
        below = [k for k in range(7) if t[k] < t[label]]
        p, q = probabilities(t, 4, below), probabilities(s, 4, below)
        total += 8 * 16 * sum(p[k] * math.log(p[k] / q[k]) for k in below)
    return total / len(student)
