import torch

from kdcompress.methods.sskd import kept, selected_loss

repeats = False


def inputs(n, generator):
    student, teacher = (3 * torch.randn(n, 4, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(0, 4, (n,), generator=generator)


def ours(student, teacher, target):
    return selected_loss(student, teacher, 4.0, kept(teacher, target, 0.75))


def formula(student, teacher, target):
    scored = []
    for s, t, y in zip(student.double(), teacher.double(), target.tolist()):
        p, q = (t / 4).exp() / (t / 4).exp().sum(), (s / 4).exp() / (s / 4).exp().sum()
        rank = sorted(t.tolist(), reverse=True).index(float(t[y]))
        scored.append((rank, 16 * float((p * (p / q).log()).sum())))
    right = [loss for rank, loss in scored if rank == 0]
    wrong = [loss for rank, loss in sorted(scored, key=lambda entry: entry[0]) if rank > 0]
    learnt = right + wrong[: int(0.75 * len(wrong))]
    return sum(learnt) / max(1, len(learnt))
