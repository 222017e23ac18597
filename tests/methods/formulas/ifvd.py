import torch

from kdcompress.methods.ifvd import ifvd_loss


def inputs(n, generator):
    maps = torch.randn(n, 5, 4, 4, generator=generator), torch.randn(n, 9, 4, 4, generator=generator)
    classes = torch.randint(0, 4, (n, 4, 4), generator=generator).to(torch.uint8)
    classes[classes == 3] = 255
    classes[:, 0, 0] = 0
    return *maps, classes.repeat_interleave(2, 1).repeat_interleave(2, 2)


def ours(student, teacher, y):
    return ifvd_loss(student, teacher, y)


def formula(student, teacher, y):
    total, count = 0.0, 0

    def cosine(maps, classes, i, j):
        same = [maps[:, r, c].double() for r in range(4) for c in range(4) if classes[r, c] == classes[i, j]]
        a, b = maps[:, i, j].double(), sum(same) / len(same)
        return float(a @ b) / float((a @ a) * (b @ b)) ** 0.5

    for s, t, classes in zip(student, teacher, y[:, ::2, ::2]):
        for i in range(4):
            for j in range(4):
                if classes[i, j] != 255:
                    total, count = total + (cosine(s, classes, i, j) - cosine(t, classes, i, j)) ** 2, count + 1
    return total / count
