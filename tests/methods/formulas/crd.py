import math

import torch

from kdcompress.methods.crd import nce_loss

IMAGES, LOG_Z = 50, 5.0


def inputs(n, generator):
    allowed = torch.rand(n, 9, generator=generator) < 0.8
    return 4 * torch.randn(n, generator=generator), 4 * torch.randn(n, 9, generator=generator), allowed


def ours(positive, negative, allowed):
    return nce_loss(positive, negative, allowed, LOG_Z, IMAGES)


def formula(positive, negative, allowed):
    k, total = negative.shape[1], 0.0
    noise = k / IMAGES
    for p, row, mask in zip(positive.tolist(), negative.tolist(), allowed.tolist()):
        p = math.exp(p) / math.exp(LOG_Z)
        others = [math.exp(v) / math.exp(LOG_Z) for v, allow in zip(row, mask) if allow]
        total -= math.log(p / (p + noise))
        total -= k * sum(math.log(noise / (q + noise)) for q in others) / max(1, len(others))
    return total / len(positive)
