import torch

from kdcompress.methods.dcm import dense_mutual_loss


def inputs(n, generator):
    """Two classifiers of the student, then three of its peer."""
    return tuple(torch.randn(n, 7, generator=generator) * 3 for _ in range(5))


def ours(*logits):
    return dense_mutual_loss([logits[:2], logits[2:]], 2.0)


def formula(*logits):
    """The two directions together are T^2 * sum (p - q) (log p - log q), for each pair between the networks."""
    log_p = [z.double() / 2 - (z.double() / 2).exp().sum(1, keepdim=True).log() for z in logits]
    total = 0.0
    for a in log_p[:2]:
        for b in log_p[2:]:
            total += 4 * float(((a.exp() - b.exp()) * (a - b)).sum())
    return total / len(logits[0])
