import math

import torch
import torch.nn.functional as F

from kdcompress.methods.hkd import nce_loss

TEMPERATURE = 0.3


def inputs(n, generator):
    return torch.randn(n, 16, generator=generator), torch.randn(n, 16, generator=generator)


def ours(student, teacher):
    return nce_loss(F.normalize(student.float()), F.normalize(teacher.float()), TEMPERATURE)


def formula(student, teacher):
    s, t = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (student, teacher))
    n, total = len(s), 0.0
    for i in range(n):
        right = math.exp(float(s[i] @ t[i]) / TEMPERATURE)
        of_teacher = sum(math.exp(float(s[i] @ t[j]) / TEMPERATURE) for j in range(n)) / n
        of_student = sum(math.exp(float(s[j] @ t[i]) / TEMPERATURE) for j in range(n)) / n
        total -= math.log(right / of_teacher) + math.log(right / of_student)
    return total / n
