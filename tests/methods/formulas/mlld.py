import torch

from kdcompress.methods.mlld import mlld_loss


def inputs(n, generator):
    return torch.randn(n, 7, generator=generator), torch.randn(n, 7, generator=generator) * 6


def ours(student, teacher):
    instance, batch, category = mlld_loss(student, teacher, (2.0, 3.0))
    return instance + 2 * batch + 3 * category


def formula(student, teacher):
    n, classes = student.shape
    total = 0.0
    for t in (2, 3):
        p, q = (z.double().div(t).exp() for z in (student, teacher))
        p, q = (z / z.sum(1, keepdim=True) for z in (p, q))
        total += t**2 * float((q * (q / p).log()).sum()) / n
        for i in range(n):
            for j in range(n):
                total += 2 * 64 / n**2 * float(p[i] @ p[j] - q[i] @ q[j]) ** 2
        for k in range(classes):
            for m in range(classes):
                difference = sum(float(a[k] * a[m] - b[k] * b[m]) for a, b in zip(p, q)) * 64 / n
                total += 3 * difference**2 / classes
    return total / 2
