import torch

from kdcompress.methods.ickd import ickd_loss


def inputs(n, generator):
    return torch.randn(n, 5, 4, 4, generator=generator), torch.randn(n, 5, 3, 3, generator=generator)


def ours(student, teacher):
    return ickd_loss(student, teacher)


def formula(student, teacher):
    def rows(maps):
        for a in maps.double():
            row = [float((a * b).sum()) for b in maps.double()]
            yield [value / sum(v**2 for v in row) ** 0.5 for value in row]

    total = 0.0
    for s, t in zip(student, teacher):
        total += sum((a - b) ** 2 for p, q in zip(rows(s), rows(t)) for a, b in zip(p, q))
    return total / (len(student) * student.shape[1])
