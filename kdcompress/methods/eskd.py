"""On the Efficacy of Knowledge Distillation (ESKD). Cho and Hariharan, ICCV 2019, arXiv:1910.01348.

The paper stops two things early. The distillation: that is this method. And the teacher's own training, for a teacher
that a small student can follow: train it for fewer epochs (``teacher.train.epochs`` of the recipe).
"""

from __future__ import annotations

from pydantic import Field

from kdcompress.methods import methods
from kdcompress.methods.kd import KD


@methods.register("eskd")
class ESKD(KD):
    """KD that ends before the training does: it helps a small student at first and holds it back later."""

    class Options(KD.Options):
        until: float = Field(0.6, ge=0, le=1, description="share of the training at which it ends; the default is ours")

    paper = "arXiv:1910.01348"
