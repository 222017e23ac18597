import torch

from kdcompress.methods.n2n import n2n_losses


def inputs(n, generator):
    return tuple(3 * torch.randn(n, 7, generator=generator) for _ in range(3))


def ours(large, small, smaller):
    outer, inner = n2n_losses([large, small, smaller], 0.1)
    return 10 * outer + inner


def formula(large, small, smaller):
    def mse(a, b):
        return float(torch.dist(a.double(), b.double())) ** 2 / a.numel()

    student = 10 * mse(large, small)
    small_one = mse(small, large) + 0.1 * mse(small, smaller)
    return student + small_one + mse(smaller, small)
