import torch

from kdcompress.methods.ttm import ttm_loss


def inputs(n, generator):
    return torch.randn(n, 7, generator=generator) * 3, torch.randn(n, 7, generator=generator) * 3


def ours(student, teacher):
    return ttm_loss(student, teacher, 0.25, weighted=True)


def formula(student, teacher):
    """U * KL = the sum of p^gamma (log(p^gamma / U) - log q), U the sum of p^gamma."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double()):
        power, q = (t.exp() / t.exp().sum()) ** 0.25, s.exp() / s.exp().sum()
        total += sum(float(a * torch.log(a / power.sum() / b)) for a, b in zip(power, q))
    return total / len(student)
