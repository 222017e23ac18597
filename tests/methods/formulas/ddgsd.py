import torch

from kdcompress.methods.ddgsd import mmd_loss, symmetric_kl


def inputs(n, generator):
    logits = (3 * torch.randn(n, 7, generator=generator) for _ in range(2))
    features = (torch.randn(n, 5, generator=generator) for _ in range(2))
    return *logits, *features


def ours(a, b, f, g):
    return symmetric_kl(a, b, 3.0) + 0.1 * mmd_loss(f, g)


def formula(a, b, f, g):
    n, total = len(a), 0.0
    for s, t in zip(a.double() / 3, b.double() / 3):  # both ways: sum of (p - q)(log p - log q)
        p, q = s.softmax(0), t.softmax(0)
        total += 9 * float(((p - q) * (p / q).log()).sum()) / n
    f, g = f.double(), g.double()
    kernel = (f @ f.T).sum() + (g @ g.T).sum() - 2 * (f @ g.T).sum()
    return total + 0.1 * float(kernel) / n**2
