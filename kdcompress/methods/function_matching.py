"""Knowledge distillation: A good teacher is patient and consistent. Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov,
CVPR 2022, arXiv:2106.05237.

Two functions are matched on as many images as can be had, and no label is used: teacher and student see the same view
of each image (as they always do here), mixed with other images, for much longer than labels would need. So the views
belong to the method: ``data.augment: {resized_crop: 0.1, flip: true, mixup: 1}``, and many epochs.
"""

from __future__ import annotations

from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


@methods.register("function-matching")
class FunctionMatching(Method):
    """The student learns the teacher's class probabilities on mixed images, for long, and no labels."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.0, "The paper uses 0: no labels.")
        weight: float = loss_weight(1.0)
        temperature: float = softening(1.0, "The public code uses 1.")

    paper = "arXiv:2106.05237"
    needs = Needs(teacher="logits")

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        return {"matching": o.weight * kd_loss(student.logits, teacher.logits, o.temperature)}
