import math

import torch

from kdcompress.methods.pkt import pkt_loss


def inputs(n, generator):
    return torch.randn(n, 5, generator=generator), torch.randn(n, 7, generator=generator)


def ours(student, teacher):
    return 30000 * pkt_loss(student, teacher)


def formula(student, teacher):
    def probabilities(x):
        kernel = [[(float(a @ b / (a.norm() * b.norm())) + 1) / 2 for b in x] for a in x]
        return [[value / sum(row) for value in row] for row in kernel]

    p, q = probabilities(teacher.double()), probabilities(student.double())
    pairs = [a * math.log(a / b) for rows in zip(p, q) for a, b in zip(*rows)]
    n = len(student)
    return 30000 * sum(pairs) / n**2 * (n / 64)
