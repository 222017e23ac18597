import torch

from kdcompress.methods.ft import ft_loss


def inputs(n, generator):
    return torch.randn(n, 3, 4, 4, generator=generator), torch.randn(n, 3, 4, 4, generator=generator)


def ours(student, teacher):
    return ft_loss(student, teacher, 1) + ft_loss(student, teacher, 2)


def formula(student, teacher):
    """Each factor divided by its root mean square; for p = 2, 2 - 2 cos."""
    total = 0.0
    for s, t in zip(student.double().flatten(1), teacher.double().flatten(1)):
        a, b = s / (s**2).mean() ** 0.5, t / (t**2).mean() ** 0.5
        total += sum(abs(float(x - y)) for x, y in zip(a, b)) / len(a)
        total += 2 - 2 * float(torch.cosine_similarity(s, t, dim=0))
    return total / len(student)
