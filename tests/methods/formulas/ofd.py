import torch

from kdcompress.methods.ofd import ofd_loss

MARGIN = torch.tensor([-1.0, -0.3, 0.0])


def inputs(n, generator):
    return torch.randn(n, 3, 4, 4, generator=generator), torch.randn(n, 3, 4, 4, generator=generator)


def ours(student, teacher):
    return ofd_loss(student, teacher, MARGIN)


def formula(student, teacher):
    total = 0.0
    for c, margin in enumerate(MARGIN.tolist()):
        for s, t in zip(student[:, c].flatten().tolist(), teacher[:, c].flatten().tolist()):
            target = t if t > margin else margin
            if not s <= target <= 0:
                total += (target - s) ** 2
    return total / student.numel()
