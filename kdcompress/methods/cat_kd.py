"""Class Attention Transfer Based Knowledge Distillation (CAT-KD). Guo, Yan, Li and Lin, CVPR 2023, arXiv:2304.12777.

A class activation map (CAM) is the classifier's weights applied to the map that is pooled. The student's maps learn the
teacher's, at a coarse resolution. With global average pooling the logits are the mean of these maps, so no network is
changed.

Different here: some students have a layer between their last map and the classifier. Such a student gets its class maps
from a 1x1 convolution, which is trained with it and dropped. For a plain transformer with a class token the classifier
is applied to the patch tokens. Any other teacher without such maps is refused.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.heads import averaged, classifier_of, look
from kdcompress.models.taps import Tapped, Taps, TapShapes


def class_maps(last: Tensor | None, classifier: nn.Module | None) -> Tensor:
    """A map [N, C, H, W] -> the evidence for each class at each place [N, K, H, W]; its mean are the logits."""
    assert last is not None and isinstance(classifier, (nn.Linear, nn.Conv2d))
    return F.conv2d(last, classifier.weight.flatten(1)[..., None, None], classifier.bias)


def check_class_maps(name: str, student: Tapped, teacher: Tapped) -> bool:
    """Whether the student's own classifier gives its class maps. Raises UsageError, for the method of this name, where
    the teacher has none, or other classes."""
    shapes, width = teacher.shapes, classifier_of(teacher, "teacher").weight.shape[1]
    if student.shapes.classes != shapes.classes:
        got = f"{student.shapes.classes} classes, and the teacher {shapes.classes}"
        raise UsageError(f"{name} compares a map of each class: both need the same classes.", got=got)
    assert shapes.last is not None
    plain = len({(stage.height, stage.width) for stage in shapes.stages}) == 1
    if not averaged(look(teacher)) and not (plain and shapes.last.channels == width):
        raise UsageError(
            "The teacher's classifier sees more than the average of its last map: it has no class maps there.",
            got=f"last map {shapes.last}, classifier {teacher.classifier_path}",
            hint="use a method on logits or stages",
        )
    return student.classifier is not None and averaged(look(student))


def cat_loss(student: Tensor, teacher: Tensor, size: int, normalize: bool) -> Tensor:
    """Squared difference of class maps [N, K, H, W], average-pooled to ``size`` x ``size`` and, with ``normalize``,
    each divided by its l2 norm. A float32 scalar, averaged over batch, classes and places as in the
    official code, with whose weights it goes."""
    s, t = (F.adaptive_avg_pool2d(maps.float(), size).flatten(2) for maps in (student, teacher))
    if normalize:
        s, t = F.normalize(s, dim=2, eps=1e-6), F.normalize(t, dim=2, eps=1e-6)
    return F.mse_loss(s, t)


@methods.register("cat-kd")
class CATKD(Method):
    """The student learns where in the image the teacher sees each class."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            400.0, "The official configurations use 40 to 600, and 0.7 to 15 without `normalize`."
        )
        size: int = Field(
            2,
            ge=1,
            le=1024,
            description="Height and width, in cells, to which the class maps are pooled before they are compared.",
        )
        normalize: bool = Field(
            True, description="Scale each map to length 1 first, so that only its shape is compared."
        )

    family = "feature"
    paper = "arXiv:2304.12777"
    needs = Needs(student="last+pooled", teacher="last+pooled+stages")  # stages: is it a plain transformer?

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> bool:
        """Attaches nothing. Returns whether the student's own classifier gives its class maps."""
        assert teacher is not None
        return check_class_maps("cat-kd", student, teacher)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        assert student.last is not None
        self.classify = None if self.attached else nn.Conv2d(student.last.channels, student.classes, 1)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        ours = class_maps(student.last, self.classify or student.classifier)
        theirs = class_maps(teacher.last, teacher.classifier)
        return {"cat": o.weight * cat_loss(ours, theirs, o.size, o.normalize)}
