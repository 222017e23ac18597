import torch

from kdcompress.methods.kd import kd_loss
from kdcompress.methods.kdcl import min_logit_target


def inputs(n, generator):
    logits = (torch.randn(n, 7, generator=generator) * 3 for _ in range(3))
    return *logits, torch.randint(0, 7, (n,), generator=generator)


def ours(*inputs):
    *logits, y = inputs
    target = min_logit_target(torch.stack([z.detach().float() for z in logits]), y)
    return sum(kd_loss(z, target, 2.0) for z in logits)


def formula(*inputs):
    *logits, y = (t.tolist() for t in inputs)
    total = 0.0
    for i, label in enumerate(y):
        least = [min(z[i][c] - z[i][label] for z in logits) for c in range(7)]
        t = torch.tensor(least, dtype=torch.float64).div(2).softmax(0)
        for z in logits:
            p = torch.tensor(z[i], dtype=torch.float64).div(2).softmax(0)
            total += 4 * float((t * (t / p).log()).sum())
    return total / len(y)
