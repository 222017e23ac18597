import torch

from kdcompress.methods.rkd import angle_loss, distance_loss

repeats = False


def inputs(n, generator):
    return torch.randn(n, 5, generator=generator), torch.randn(n, 7, generator=generator)


def ours(student, teacher):
    return 25 * distance_loss(student, teacher) + 50 * angle_loss(student, teacher)


def huber(a, b):
    gap = abs(a - b)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def formula(student, teacher):
    sides, n = (student.double(), teacher.double()), len(student)
    means = [sum(float((a - b).norm()) for a in x for b in x) / (n * (n - 1)) for x in sides]
    distance = angle = 0.0
    for i in range(n):
        for j in range(n):
            distance += huber(*(float((x[i] - x[j]).norm()) / mean for x, mean in zip(sides, means)))
            for k in range(n):
                if j in (i, k):
                    continue  # no angle on either side
                cosines = []
                for x in sides:  # the law of cosines
                    a, b, c = (float((x[p] - x[q]).norm()) for p, q in ((i, j), (k, j), (i, k)))
                    cosines.append((a**2 + b**2 - c**2) / (2 * a * b))
                angle += huber(*cosines)
    return 25 * distance / n**2 + 50 * angle / n**3
