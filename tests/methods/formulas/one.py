import torch
import torch.nn.functional as F

from kdcompress.methods.one import branch_loss, ensemble


def inputs(n, generator):
    """The logits of three branches, the gate's scores and labels."""
    branches, scores = (torch.randn(n, 3, k, generator=generator) * 3 for k in (7, 1))
    return branches, scores[..., 0], torch.randint(0, 7, (n,), generator=generator)


def ours(branches, scores, y):
    gate = scores.softmax(1)
    return branch_loss(branches, gate, 3.0) + F.cross_entropy(ensemble(branches, gate), y)


def formula(branches, scores, y):
    total = 0.0
    for z, s, label in zip(branches.double(), scores.double(), y):
        weights = s.exp() / s.exp().sum()
        both = sum(w * row for w, row in zip(weights, z))
        total -= float((both.exp()[label] / both.exp().sum()).log())
        t = (both / 3).exp() / (both / 3).exp().sum()
        for row in z:
            total += 9 * float((t * (t / (row / 3).softmax(0)).log()).sum())
    return total / len(y)
