import numpy as np
import torch

from kdcompress.methods.vkd import RIDGE, Moments, standardized, vkd_loss, whitened

PROJECTION = torch.linalg.qr(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))[0]


def inputs(n, generator):
    mixed = torch.randn(n, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    return torch.randn(n, 3, generator=generator), mixed + 2


def ours(student, teacher):
    moments = Moments(5)
    for rows in teacher.chunk(2):  # two batches
        moments.learn(rows)
    targets = [normalize(teacher, moments.mean, moments.covariance) for normalize in (standardized, whitened)]
    return sum(vkd_loss(student, PROJECTION, target) for target in targets)


def formula(student, teacher):
    s, t = student.double().numpy() @ PROJECTION.double().numpy().T, teacher.double().numpy()
    centred = t - t.mean(0)
    total = ((s - centred / t.std(0)) ** 2).mean()
    covariance = centred.T @ centred / len(t)
    root = np.linalg.cholesky(covariance + RIDGE * np.trace(covariance) / 5 * np.eye(5))
    return total + ((s - centred @ np.linalg.inv(root).T) ** 2).mean()
