import numpy as np
import torch

from kdcompress.methods.pearson import pearson_loss


def inputs(n, generator):
    return torch.randn(n, 5, 4, 6, generator=generator) * 7 + 3, torch.randn(n, 5, 4, 6, generator=generator)


def ours(student, teacher):
    return pearson_loss(student, teacher)


def formula(student, teacher):
    """One minus Pearson's correlation of each channel, averaged."""
    channels = [x.double().numpy().transpose(1, 0, 2, 3).reshape(5, -1) for x in (student, teacher)]
    return np.mean([1 - np.corrcoef(s, t)[0, 1] for s, t in zip(*channels)])
