"""Graph-based Knowledge Distillation by Multi-head Attention Network (MHGD). Lee and Song, BMVC 2019, arXiv:1907.02226.

An attention network learns to tell the features at the end of a stage from those at its start, on the teacher alone.
Its attention maps are the graph: how much each image of the batch says of each other one. The student's features, put
through the same network, must give the teacher's graph.

Different here: maps are pooled over positions, where the paper takes singular vectors. The network learns in the same
steps as the student, from the teacher's features, and the student's loss does not reach it; the paper trains it first.
The student's features come to the teacher's width by a linear layer where they differ. Scores are divided by the square
root of the width, and the graph that is compared is the one that the network uses: the official code compares that of
tanh of the scores. No heads are dropped. Where the authors limit the loss's gradient by that of the labels' loss there
is a weight. As in the official code queries and keys have mean 0 and deviation 1 over the batch, an image sees itself
too, and the divergence is that of the student's graph from the teacher's.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import products
from kdcompress.models.taps import Taps, TapShapes


def graph(queries: Tensor, keys: Tensor) -> Tensor:
    """Log of the attention that image i pays to image j in each head, a softmax over j: queries and keys [N, H, D],
    standardised over the batch, -> float32 [H, N, N]."""

    def standardized(x: Tensor) -> Tensor:
        return F.layer_norm(x.float().movedim(0, 2), x.shape[:1]).mT  # [H, D, N] over N, to [H, N, D]

    return (products(standardized(queries), standardized(keys)) / queries.shape[2] ** 0.5).log_softmax(2)


def graph_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student's graph from the teacher's, both [H, N, N] and in log space: summed over j,
    averaged over heads and images."""
    return (student.exp() * (student - teacher)).sum(2).mean()


def estimate_loss(estimate: Tensor, sink: Tensor) -> Tensor:
    """1 - cosine of the features [N, D] and what was estimated of them, averaged over the batch; float32."""
    return (1 - F.cosine_similarity(estimate.float(), sink.float())).mean()


class Attention(nn.Module):
    """The attention of features at the end of a stage, the sinks [N, E], to those at its start, the sources [N, D]."""

    def __init__(self, source: int, sink: int, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(sink, heads * width, bias=False)
        self.key = nn.Linear(source, heads * width, bias=False)
        self.value = nn.Linear(source, width)
        self.join = nn.Linear(heads * width, sink)

    def graph(self, source: Tensor, sink: Tensor, learns: bool) -> Tensor:
        """``learns``: whether the gradient reaches this network."""
        weights = [layer.weight if learns else layer.weight.detach() for layer in (self.query, self.key)]
        split = [products(x, w).unflatten(1, (self.heads, -1)) for x, w in zip((sink, source), weights)]
        return graph(*split)

    def estimate(self, source: Tensor, graph: Tensor) -> Tensor:
        """The sinks [N, E], from sources and a graph [H, N, N]."""
        seen = products(graph.exp(), F.relu(self.value(source)).mT)  # [H, N, width]
        return self.join(seen.transpose(0, 1).flatten(1))


@methods.register("mhgd")
class MHGD(Method):
    """The student learns how the teacher's stages relate the images of a batch, in the graphs of an attention that
    tells the end of a stage from its start."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            1.0,
            "It is summed over the pairs of neighbouring stages. At 1 its gradient began about as large as that of the "
            "labels, to which the authors limit it.",
        )
        heads: int = Field(8, ge=1, le=1024, description="Heads of the attention. The official code uses 8.")
        width: int = Field(
            32,
            ge=1,
            le=65_536,
            description="Width of each head. The official code uses the mean of both stages' channels.",
        )

    family = "relation"
    paper = "arXiv:1907.02226"
    needs = Needs(student="stages", teacher="stages", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if len(self.pairs) < 2:
            hint = "name two stages or more in the recipe: student.taps, teacher.taps"
            raise UsageError("mhgd needs two pairs of stages: it relates neighbours.", got=1, hint=hint)
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.adapters = nn.ModuleList(nn.Identity() if a == b else nn.Linear(a, b) for a, b in widths)
        o = self.options
        self.attentions = nn.ModuleList(Attention(a, b, o.heads, o.width) for (_, a), (_, b) in pairwise(widths))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        def direction(x: Tensor) -> Tensor:
            return F.normalize(x.float(), dim=1)

        pools = [
            (student.stages[s].float().mean((2, 3)), teacher.stages[t].float().mean((2, 3))) for s, t in self.pairs
        ]
        ours = [direction(adapt(x)) for adapt, (x, _) in zip(self.adapters, pools)]
        theirs = [direction(x).detach() for _, x in pools]
        transfers, estimates = [], []
        for attention, own, given in zip(self.attentions, pairwise(ours), pairwise(theirs)):
            assert isinstance(attention, Attention)
            target = attention.graph(*given, learns=True)
            estimates.append(estimate_loss(attention.estimate(given[0], target), given[1]))
            transfers.append(graph_loss(attention.graph(*own, learns=False), target.detach()))
        return {"mhgd": self.options.weight * sum(transfers), "estimator": sum(estimates)}  # type: ignore[dict-item]
