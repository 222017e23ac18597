import torch

from kdcompress.methods.fixmatch import consistency_loss


def inputs(n, generator):
    return tuple(3 * torch.randn(n, 7, generator=generator) for _ in range(2))


def ours(strong, weak):
    return consistency_loss(weak, strong, 0.6)


def formula(strong, weak):
    total = 0.0
    for s in range(len(weak)):
        q = weak[s].double().softmax(0)
        if float(q.max()) >= 0.6:
            total -= float(strong[s].double().softmax(0)[int(q.argmax())].log())
    return total / len(weak)
