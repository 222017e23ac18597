import torch

from kdcompress.methods.adversarial_logits import discriminator_loss, fooling_loss, l1_loss


def inputs(n, generator):
    """Logits of both, what the discriminator says of them, and labels."""
    logits = [torch.randn(n, 7, generator=generator) * 3 for _ in range(2)]
    said = [torch.randn(n, 8, generator=generator) * 3 for _ in range(2)]
    return *logits, *said, torch.randint(0, 7, (n,), generator=generator)


def ours(student, teacher, of_student, of_teacher, y):
    return (
        0.3 * fooling_loss(of_student, y)
        + 0.5 * l1_loss(student, teacher)
        + discriminator_loss(of_student, of_teacher, y)
    )


def formula(student, teacher, of_student, of_teacher, y):
    total = 0.0
    for s, t, ds, dt, k in zip(*(z.double() for z in (student, teacher, of_student, of_teacher)), y):
        right = [d[:7].exp()[k] / d[:7].exp().sum() for d in (ds, dt)]
        real = [1 / (1 + (-d[7]).exp()) for d in (ds, dt)]
        total += 0.5 * float((s - t).abs().sum()) / 7
        total -= 0.3 * float((real[0] * right[0]).log()) / 2
        total -= float(((1 - real[0]) * real[1] * right[0] * right[1]).log()) / 2
    return total / len(student)
