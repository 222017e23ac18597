import torch

from kdcompress.methods.cat_kd import cat_loss


def inputs(n, generator):
    return torch.randn(n, 7, 8, 8, generator=generator), torch.randn(n, 7, 4, 4, generator=generator)


def ours(student, teacher):
    return cat_loss(student, teacher, 2, True)


def formula(student, teacher):
    """Of unit vectors: |s - t|^2 = 2 - 2 s.t, over the four quarters of each map."""

    def quarters(maps):
        middle = maps.shape[-1] // 2
        rows = (maps[..., :middle, :], maps[..., middle:, :])
        return torch.stack([half.double().sum((-1, -2)) for row in rows for half in row.split(middle, -1)], -1)

    s, t = quarters(student), quarters(teacher)
    total = 0.0
    for a, b in zip(s.reshape(-1, 4), t.reshape(-1, 4)):
        total += 2 - 2 * float(a @ b) / float((a @ a) * (b @ b)) ** 0.5
    return total / s.numel()
