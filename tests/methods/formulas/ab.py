import torch

from kdcompress.methods.ab import ab_loss

MARGIN = 0.7


def inputs(n, generator):
    return torch.randn(n, 3, 4, 4, generator=generator), torch.randn(n, 3, 4, 4, generator=generator)


def ours(student, teacher):
    return ab_loss(student, teacher, MARGIN)


def formula(student, teacher):
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist()):
        if t > 0 and s < MARGIN:
            total += (s - MARGIN) ** 2
        if t <= 0 and s > -MARGIN:
            total += (s + MARGIN) ** 2
    return total / student.numel()
