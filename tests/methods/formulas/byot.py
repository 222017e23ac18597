import torch

from kdcompress.methods.byot import exit_losses


def inputs(n, generator):
    logits = (3 * torch.randn(n, 7, generator=generator) for _ in range(2))
    features = (torch.randn(n, 5, generator=generator) for _ in range(2))
    return *logits, torch.randint(0, 7, (n,), generator=generator), *features


def ours(exit, deepest, y, feature, pooled):
    task, kd, hint = exit_losses(exit, deepest, y, feature, pooled, 3.0)
    return 0.9 * task + 0.1 * kd + 0.01 * hint


def formula(exit, deepest, y, feature, pooled):
    total = 0.0
    for a, b, c, f, g in zip(exit.double(), deepest.double(), y, feature.double(), pooled.double()):
        total += 0.9 * -float((a[c].exp() / a.exp().sum()).log())
        p, q = ((z / 3).exp() / (z / 3).exp().sum() for z in (b, a))
        total += 0.1 * 9 * float((p * (p / q).log()).sum())
        total += 0.01 * float(torch.dist(f, g)) ** 2
    return total / len(exit)
