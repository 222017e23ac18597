import torch

from kdcompress.methods.at import at_loss


def inputs(n, generator):
    return torch.randn(n, 5, 8, 8, generator=generator), torch.randn(n, 3, 4, 4, generator=generator)


def ours(student, teacher):
    return at_loss(student, teacher)


def formula(student, teacher):
    """The squared distance of unit vectors is 2 - 2 cos; the larger attention is averaged over blocks of 2x2."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double()):
        a = torch.stack([(s[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] ** 2).mean() for i in range(4) for j in range(4)])
        b = torch.stack([(t[:, i, j] ** 2).mean() for i in range(4) for j in range(4)])
        total += 2 - 2 * float(a @ b / (a @ a).sqrt() / (b @ b).sqrt())
    return total / len(student)
