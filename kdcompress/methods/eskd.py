"""On the Efficacy of Knowledge Distillation (ESKD). Cho and Hariharan, ICCV 2019, arXiv:1910.01348.

The paper stops two things early. One is the distillation: that is this method. The other is the teacher's own training,
so that a small student can follow the teacher: give it fewer epochs (``teacher.train.epochs`` of the recipe).
"""

from __future__ import annotations

from pydantic import Field

from kdcompress.methods import methods
from kdcompress.methods.kd import KD


@methods.register("eskd")
class ESKD(KD):
    """KD that stops before the training ends. It helps a small student at first and holds it back later."""

    class Options(KD.Options):
        until: float = Field(
            0.6,
            ge=0,
            le=1,
            description="The distillation ends at this share of the training. The default is ours, not the paper's.",
        )

    paper = "arXiv:1910.01348"
