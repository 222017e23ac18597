"""Learning without Forgetting. Li and Hoiem, ECCV 2016, arXiv:1606.09282.

The student knows more classes than its teacher, which is itself as it was before it began to learn the new ones. What
the teacher answers to images of the new classes holds the student's answers for the old ones: these logits alone are
compared, at temperature 2. The teacher's classes are the first ones of the student (``lifelong`` of the recipe).

Different here: one classifier for all classes, as in iCaRL (Rebuffi et al., CVPR 2017, arXiv:1611.07725) and later
work, so that the loss of the labels is over all classes known so far. The paper has a classifier for each task, and is
told which one an image is for. iCaRL's sigmoid for each class is not used.
"""

from __future__ import annotations

from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def lwf_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student[:, :M] / T)), in nats; equations 2 to 4 of the paper, less the
    teacher's entropy, which has no gradient. ``student`` logits [N, K], ``teacher`` [N, M] of the first M <= K classes.
    Summed over the M classes, averaged over the batch, and not times T^2, as in the paper. A float32 scalar."""
    return kd_loss(student[:, : teacher.shape[1]], teacher, temperature) / temperature**2


@methods.register("lwf")
class LwF(Method):
    """The student learns new classes, and keeps its teacher's answers for the old ones."""

    class Options(MethodOptions):
        task_weight: float = label_weight(1.0, "The paper uses 1.")
        weight: float = loss_weight(1.0, "The paper uses 1.")
        temperature: float = softening(2.0, "The paper uses 2.")

    family = "self"
    paper = "arXiv:1606.09282"
    needs = Needs(teacher="logits", one_label=True, fewer=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        return {"lwf": o.weight * lwf_loss(student.logits, teacher.logits, o.temperature)}
