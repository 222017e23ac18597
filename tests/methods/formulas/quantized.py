import torch

from kdcompress.methods.kd import kd_loss
from kdcompress.methods.quantized import fake_quantize

WEIGHT = torch.randn(7, 5, generator=torch.Generator().manual_seed(9))


def inputs(n, generator):
    return torch.randn(n, 5, generator=generator), torch.randn(n, 7, generator=generator) * 3


def ours(feature, teacher):
    return kd_loss(feature.float() @ fake_quantize(WEIGHT, bits=3).T, teacher, 2.0)


def formula(feature, teacher):
    levels = [
        [min((-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1), key=lambda level: abs(level * top - w)) * top for w in row]
        for row in WEIGHT.tolist()
        for top in [max(map(abs, row))]
    ]
    weight, total = torch.tensor(levels, dtype=torch.float64), 0.0
    for f, t in zip(feature.double(), teacher.double()):
        p, q = (t / 2).softmax(0), (weight @ f / 2).softmax(0)
        total += float((p * (p / q).log()).sum())
    return 4 * total / len(feature)
