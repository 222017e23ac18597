import math

import torch

from kdcompress.methods.multi_teacher import confidence, multi_teacher_loss


def inputs(n, generator):
    student, *teachers = (torch.randn(n, 7, generator=generator) * 3 for _ in range(4))
    return student, *teachers, torch.randint(0, 7, (n,), generator=generator)


def ours(student, first, second, third, y):
    teachers = torch.stack([first, second, third])
    return multi_teacher_loss(student, teachers, confidence(teachers, y), 4.0)


def formula(student, *teachers_and_labels):
    *teachers, y = teachers_and_labels
    total = 0.0
    for i, label in enumerate(y.tolist()):
        odds = [float(t[i].double().exp().sum() / t[i, label].double().exp()) for t in teachers]  # exp(cross-entropy)
        for t, odd in zip(teachers, odds):
            p, q = (torch.softmax(z[i].double() / 4, 0).tolist() for z in (t, student))
            divergence = sum(a * math.log(a / b) for a, b in zip(p, q))
            total += 16 * (1 - odd / sum(odds)) / 2 * divergence
    return total / len(student)
