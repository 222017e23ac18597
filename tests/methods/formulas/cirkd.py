import torch

from kdcompress.methods.cirkd import cirkd_loss

repeats = False  # images of the batch are compared with each other


def inputs(n, generator):
    return torch.randn(n, 5, 4, 4, generator=generator), torch.randn(n, 9, 4, 4, generator=generator)


def ours(student, teacher):
    return cirkd_loss(student, teacher, 0.5, 2)


def formula(student, teacher):
    """Four places an image, each the mean of 2 x 2."""

    def places(maps):
        found = [maps[:, :, i : i + 2, j : j + 2].double().mean((2, 3)) for i in (0, 2) for j in (0, 2)]
        return torch.stack([each / each.norm(dim=1, keepdim=True) for each in found], 1)

    s, t, n = places(student), places(teacher), len(student)
    total = 0.0
    for i in range(n):
        for j in range(n):
            for place in range(4):
                q, p = (torch.exp(of[j] @ of[i, place] / 0.5) for of in (s, t))
                q, p = q / q.sum(), p / p.sum()
                total += float((p * (p / q).log()).sum())
    return total / (4 * n**2)
