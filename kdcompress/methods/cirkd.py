"""Cross-Image Relational Knowledge Distillation for Semantic Segmentation. Yang, Zhou, An, Jiang, Xu and Zhang, CVPR
2022, arXiv:2204.06986, section 3.2: how alike the places of all images of a batch are.

The paper's memories of pixels and regions (section 3.3) are left out. Ours: maps have at most ``nodes`` x ``nodes``
places, for the similarities grow with the square of their number.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.skd import nodes_of
from kdcompress.models.taps import Taps


def cirkd_loss(student: Tensor, teacher: Tensor, temperature: float, most: int) -> Tensor:
    """KL(teacher || student) between the distributions of a place's similarities, a softmax of cosines over the places
    of another image (equations 4 and 5 of the paper).

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type and any widths, of at most ``most`` x ``most``
    places each. In nats, averaged over the places and over all N^2 pairs of images: a float32 scalar."""
    most = min(most, *student.shape[-2:], *teacher.shape[-2:])
    logs = []
    with in_float32(student):
        for maps in (student, teacher):
            nodes = nodes_of(maps, most)
            images, places, _ = nodes.shape
            flat = nodes.flatten(0, 1)
            alike = (flat @ flat.T).view(images * places, images, places)
            logs.append(F.log_softmax(alike / temperature, dim=2))
    s, t = logs
    return F.kl_div(s, t, reduction="none", log_target=True).sum(2).mean()


@methods.register("cirkd")
class CIRKD(Method):
    """The student learns how alike the places of all images of a batch are, from the teacher's deepest map."""

    class Options(MethodOptions):
        weight: float = loss_weight(1.0, "The public code uses 1.")
        temperature: float = Field(
            0.1,
            ge=0.001,
            le=1000,
            description="Temperature: the cosines are divided by it before the softmax over the places of an image.",
        )
        nodes: int = Field(8, ge=2, le=256, description="Places along each side of the map that are compared, at most.")

    family = "relation"
    paper = "arXiv:2204.06986"
    needs = Needs(student="stages", teacher="stages", whole_batch=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, self.pairs[-1]
        return {"cirkd": o.weight * cirkd_loss(student.stages[s], teacher.stages[t], o.temperature, o.nodes)}
