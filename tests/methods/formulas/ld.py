import numpy as np
import torch

from kdcompress.methods.ld import ld_loss


def inputs(n, generator):
    bins = [3 * torch.randn(n, 6, 4, 5, generator=generator) for _ in range(2)]
    region = torch.randint(0, 3, (n, 6), generator=generator)
    region[:, 0] = 1  # each image has an object
    return *bins, torch.rand(n, 6, generator=generator) * (region == 1), region == 2


def ours(student, teacher, main, valuable):
    return sum(ld_loss(student, teacher, main, valuable, 10.0))


def formula(student, teacher, main, valuable):
    s, t = (np.exp(x.double().numpy() / 10) for x in (student, teacher))
    total, count, weight = 0.0, float((main > 0).sum()), float(main.double().sum())
    for n, place in np.ndindex(main.shape):
        apart = 0.0
        for p, q in zip(t[n, place], s[n, place]):
            p, q = p / p.sum(), q / q.sum()
            apart += 10**2 * (p * np.log(p / q)).sum() / 4
        total += apart * float(main[n, place]) / weight + (apart / 4 / count if valuable[n, place] else 0.0)
    return total
