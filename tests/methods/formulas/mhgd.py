import numpy as np
import torch

from kdcompress.methods.mhgd import graph, graph_loss


def inputs(n, generator):
    return tuple(torch.randn(n, 2, 5, generator=generator) for _ in range(4))


def ours(queries, keys, teacher_queries, teacher_keys):
    return graph_loss(graph(queries, keys), graph(teacher_queries, teacher_keys))


def attention(queries, keys, i, head):
    def scaled(x):
        x = x[:, head].double().numpy()
        return (x - x.mean(0)) / np.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5)

    q, k = scaled(queries)[i], scaled(keys)
    energies = [np.exp(sum(a * b for a, b in zip(q, row)) / len(q) ** 0.5) for row in k]
    return [e / sum(energies) for e in energies]


def formula(queries, keys, teacher_queries, teacher_keys):
    n, heads, _ = queries.shape
    total = 0.0
    for i in range(n):
        for head in range(heads):
            p, q = attention(queries, keys, i, head), attention(teacher_queries, teacher_keys, i, head)
            total += sum(a * np.log(a / b) for a, b in zip(p, q))
    return total / (n * heads)
