"""Knowledge Distillation with the Reused Teacher Classifier (SimKD). Chen, Mei, Zhang, Wang, Feng and Chen, CVPR 2022,
arXiv:2203.14001.

The student gets a projector after its last map, the one that is pooled, and the teacher's classifier, frozen. Only the
student's features are trained, to be the teacher's. Projector and classifier both ship: the student grows by the
projector. (The official code puts it in place of MobileNetV2's last convolution; here it comes after it.)

Different here: sometimes more than pooling lies between last map and classifier on either side (a layer, a class
token), or the module that gives the map runs more than once. Then the projector has 1x1 convolutions and comes right
before the classifier, and the pooled features are aligned. The projector ends in a ReLU only where the teacher's
features are not signed.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import same_size
from kdcompress.methods.fields import label_weight, loss_weight
from kdcompress.methods.heads import averaged, classifier_of, look
from kdcompress.models.taps import Tapped, Taps


def bottleneck(channels: int, middle: int, out: int, kernel: int = 3) -> list[nn.Module]:
    """[N, channels, H, W] -> [N, out, H, W]: convolutions of 1x1, ``kernel`` and 1x1, with batch norm and ReLU after
    the first two."""
    layers = [nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()]
    layers += [nn.Conv2d(middle, middle, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(middle), nn.ReLU()]
    return [*layers, nn.Conv2d(middle, out, 1, bias=False)]


def frozen(classifier: nn.Linear | nn.Conv2d, like: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A copy of ``classifier``, of the kind of ``like``, whose weights are buffers: in its state, and never trained."""
    weight, bias = classifier.weight.detach().flatten(1).clone(), classifier.bias
    classes, width = weight.shape
    conv = isinstance(like, nn.Conv2d)
    copy: nn.Linear | nn.Conv2d = nn.Conv2d(width, classes, 1) if conv else nn.Linear(width, classes)
    del copy.weight, copy.bias
    copy.register_buffer("weight", weight[..., None, None] if conv else weight)
    copy.register_buffer("bias", None if bias is None else bias.detach().clone())
    return copy


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of two maps [N, C, H, W], at the smaller of their sizes: the l2 loss of the paper. A float32
    scalar, averaged over all elements, so that it depends neither on the batch nor on the resolution."""
    return F.mse_loss(*same_size(student.float(), teacher.float()))


@methods.register("simkd")
class SimKD(Method):
    """The student's last features learn to be the teacher's. The student takes over the teacher's classifier."""

    class Options(MethodOptions):
        task_weight: float = label_weight(0.0, "The paper uses 0.")
        weight: float = loss_weight(1.0)
        reduction: int = Field(
            2,
            ge=1,
            le=65_536,
            description="How many times fewer channels the projector has inside than the teacher's last map. "
            "The reference code uses 2.",
        )

    deploy = "keep"
    family = "feature"
    paper = "arXiv:2203.14001"
    needs = Needs(student="last+pooled", teacher="last+pooled")

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> bool:
        """Returns whether maps are aligned, or pooled features."""
        assert teacher is not None
        old, taught = classifier_of(student, "student"), classifier_of(teacher, "teacher")
        if student.shapes.classes != teacher.shapes.classes:
            got = f"{student.shapes.classes} classes, and the teacher {teacher.shapes.classes}"
            raise UsageError("simkd gives the student the teacher's classifier: both need the same classes.", got=got)
        ours, theirs, last = look(student), look(teacher), student.shapes.last
        assert last is not None
        maps = averaged(ours) and averaged(theirs) and last.times == 1
        taken, target = (ours.last, theirs.last) if maps else (ours.pooled, theirs.pooled)
        assert taken is not None and target is not None
        channels, out = taken.shape[1], target.shape[1]
        layers = bottleneck(channels, max(1, out // options.reduction), out, kernel=3 if maps else 1)
        layers += [nn.BatchNorm2d(out), nn.Identity() if target.min() < 0 else nn.ReLU()]
        head: nn.Module = frozen(taught, like=old)
        if maps:
            around = [student.model.get_submodule(last.path), nn.Sequential(*layers).to(taken)]
            student.model.set_submodule(last.path, nn.Sequential(*reversed(around) if last.before else around))
        elif isinstance(old, nn.Linear):
            head = nn.Sequential(nn.Unflatten(1, (channels, 1, 1)), *layers, nn.Flatten(), head)
        else:
            head = nn.Sequential(*layers, head)
        student.model.set_submodule(str(student.classifier_path), head.to(taken))
        return maps

    @classmethod
    def fold(cls, net: nn.Module) -> None:
        """The frozen classifier's weights become parameters again, as in any network."""
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and "weight" in module._buffers:
                for name, value in list(module.named_buffers(recurse=False)):
                    delattr(module, name)
                    module.register_parameter(name, nn.Parameter(value))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        if self.attached:
            assert student.last is not None and teacher.last is not None
            return {"simkd": self.options.weight * simkd_loss(student.last, teacher.last)}
        assert student.pooled is not None and teacher.pooled is not None
        return {"simkd": self.options.weight * F.mse_loss(student.pooled.float(), teacher.pooled.float())}
