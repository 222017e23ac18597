import math

import torch

from kdcompress.methods.semckd import semckd_loss


def inputs(n, generator):
    distances = torch.rand(n, 3, 4, generator=generator)
    return distances, torch.randn(n, 3, 8, generator=generator), torch.randn(n, 4, 8, generator=generator)


def ours(distances, queries, keys):
    return semckd_loss(distances, queries, keys, 0.5)


def formula(distances, queries, keys):
    n, students, teachers = distances.shape
    total = 0.0
    for i in range(n):
        for s in range(students):
            q = queries[i, s].double()
            energies = []
            for t in range(teachers):
                k = keys[i, t].double()
                energies.append(math.exp(float(q @ k) / math.sqrt(float(q @ q) * float(k @ k)) / 0.5))
            total += sum(e * float(d) for e, d in zip(energies, distances[i, s])) / sum(energies)
    return total / (n * students)
