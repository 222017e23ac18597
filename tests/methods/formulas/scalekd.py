import numpy as np
import torch

from kdcompress.methods.scalekd import changing, direction_loss


def inputs(n, generator):
    return torch.randn(n, 5, 4, 6, generator=generator) + 1, torch.randn(n, 5, 4, 6, generator=generator) + 2


def ours(student, teacher):
    return direction_loss(student, teacher) + 3 * direction_loss(changing(student), changing(teacher))


def cosines(n):
    """The matrix of the discrete cosine transform (type 2, orthonormal)."""
    k, x = np.mgrid[:n, :n]
    matrix = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * x + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def formula(student, teacher):
    total, down, across = 0.0, cosines(4), cosines(6)
    for image in zip(student.double().numpy(), teacher.double().numpy()):
        frequencies = [down @ x @ across.T for x in image]
        for x in frequencies:
            x[:, 0, 0] = 0
        without = [down.T @ x @ across for x in frequencies]
        for weight, (a, b) in ((1, image), (3, without)):
            for i, j in np.ndindex(4, 6):
                s, t = (x[:, i, j] / np.sqrt((x[:, i, j] ** 2).sum()) for x in (a, b))
                total += weight * ((s - t) ** 2).sum()
    return total / 24 / len(student)
