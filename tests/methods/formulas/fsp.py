import torch

from kdcompress.methods.fsp import fsp_loss


def inputs(n, generator):
    shapes = [(n, 3, 8, 8), (n, 4, 4, 4), (n, 3, 4, 4), (n, 4, 4, 4)]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def ours(start, end, teacher_start, teacher_end):
    return fsp_loss((start, end), (teacher_start, teacher_end))


def formula(start, end, teacher_start, teacher_end):
    start = start.double().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).mean(4)  # windows of 2x2
    total = 0.0
    for a, b, c, d in zip(start, end.double(), teacher_start.double(), teacher_end.double()):
        for i in range(3):
            for j in range(4):
                total += float(((a[i] * b[j]).mean() - (c[i] * d[j]).mean()) ** 2)
    return total / (12 * len(start))
