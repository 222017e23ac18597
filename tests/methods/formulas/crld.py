import torch

from kdcompress.methods.crld import crld_loss


def inputs(n, generator):
    weak, strong = (2 * torch.randn(n, 7, generator=generator) for _ in range(2))
    return weak, strong, *(4 * torch.randn(n, 7, generator=generator) for _ in range(2))


def ours(weak, strong, teacher_weak, teacher_strong):
    within, across = crld_loss((weak, strong), (teacher_weak, teacher_strong), 3.0, (0.8, 0.4))
    return 2 * within + 0.5 * across


def formula(weak, strong, teacher_weak, teacher_strong):
    total = 0.0
    for s in range(len(weak)):
        for theirs, least, factors in ((teacher_weak, 0.8, (2, 0.5)), (teacher_strong, 0.4, (0.5, 2))):
            if float(theirs[s].double().softmax(0).max()) < least:
                continue
            q = (theirs[s].double() / 3).softmax(0)
            for own, factor in zip((weak, strong), factors):
                p = (own[s].double() / 3).softmax(0)
                total += factor * 9 * float((q * (q / p).log()).sum())
    return total / len(weak)
