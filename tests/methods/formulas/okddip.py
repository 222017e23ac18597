import torch

from kdcompress.methods.okddip import group_loss, leader_loss


def inputs(n, generator):
    """The leader's logits, those of three peers and the attention's energy."""
    return tuple(torch.randn(n, *shape, generator=generator) * 3 for shape in ((7,), (3, 7), (3, 3)))


def ours(leader, peers, energy):
    return leader_loss(leader, peers, 3.0) + group_loss(peers, energy, 3.0)


def formula(leader, peers, energy):
    total = 0.0
    for student, z, e in zip(leader.double(), peers.double(), energy.double()):
        q = [(row / 3).exp() / (row / 3).exp().sum() for row in z]
        pairs = [(sum(q) / 3, (student / 3).softmax(0))]
        for a in range(3):
            weights = e[a].exp() / e[a].exp().sum()
            pairs.append((sum(w * row for w, row in zip(weights, q)), q[a]))
        total += sum(9 * float((t * (t / p).log()).sum()) for t, p in pairs)
    return total / len(leader)
