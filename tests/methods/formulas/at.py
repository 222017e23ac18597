import torch

from kdcompress.methods.at import at_loss


def inputs(n, generator):
    return torch.randn(n, 5, 6, 6, generator=generator), torch.randn(n, 9, 6, 6, generator=generator)


def ours(student, teacher):
    return at_loss(student, teacher)


def formula(student, teacher):
    """|a - b|^2 = 2 - 2 cos(a, b), of unit vectors."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double()):
        a = [float(sum(v * v for v in s[:, i, j])) for i in range(6) for j in range(6)]
        b = [float(sum(v * v for v in t[:, i, j])) for i in range(6) for j in range(6)]
        dot = sum(x * y for x, y in zip(a, b))
        total += 2 - 2 * dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    return total / len(student)
