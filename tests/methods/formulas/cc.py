import math

import torch

from kdcompress.methods.cc import cc_loss


def inputs(n, generator):
    return torch.randn(n, 5, generator=generator), torch.randn(n, 7, generator=generator)


def ours(student, teacher):
    return cc_loss(student, teacher, gamma=0.4, order=2)


def formula(student, teacher):
    """exp(-g (|x|^2 + |y|^2)) times 1 + z + z^2 / 2, z = 2 g x . y."""

    def correlation(x, y):
        z = 0.8 * float(x @ y) / float(x.norm() * y.norm())
        return math.exp(-0.8) * (1 + z * (1 + z / 2))

    s, t, n = student.double(), teacher.double(), len(student)
    return sum((correlation(s[i], s[j]) - correlation(t[i], t[j])) ** 2 for i in range(n) for j in range(n)) / n**2
