"""NORM: Knowledge Distillation via N-to-One Representation Matching. Liu, Li, Li and Yao, ICLR 2023, arXiv:2305.13803.

A linear transform before the student's classifier expands its features to ``segments`` times the teacher's and
contracts them again, next to a shortcut. Every segment of the expanded features learns the teacher's features. As the
transform is linear, it is merged into the classifier after the training: what ships is the plain student.

Different here: the transform comes after the pooling, with which it commutes, and is applied to the map for the loss.
It has no batch norm, and begins as the identity (the contraction at 0). Where more than pooling lies between last map
and classifier on either side, the pooled features are compared in place of the maps. The official code's layer norm on
the logits and its schedule of the weight are left out. ``kd`` can be added as a second method.
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


class TransformedLinear(nn.Linear):
    """A linear layer with the feature transform before it: x + contract(expand(x))."""

    def __init__(self, linear: nn.Linear, width: int):
        bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias)
        self.load_state_dict(linear.state_dict())
        self.expand = nn.Linear(linear.in_features, width, bias)
        self.contract = nn.Linear(width, linear.in_features, bias)
        for parameter in self.contract.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.contract(self.expand(x)))

    def merged(self) -> nn.Linear:
        """The one linear layer with the same function."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight)
        weight, contract = self.weight.double(), self.contract.weight.double()
        linear.weight.data.copy_(weight + weight @ contract @ self.expand.weight.double())
        if self.bias is not None:
            shift = contract @ self.expand.bias.double() + self.contract.bias.double()
            linear.bias.data.copy_(self.bias.double() + weight @ shift)
        return linear


def norm_loss(expanded: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference between each of S segments of ``expanded`` [N, S * C, H, W] and ``teacher`` [N, C, H, W]
    as in the official code: averaged over the elements of a segment, summed over the segments; a float32 scalar."""
    segments = expanded.float().unflatten(1, (-1, teacher.shape[1]))
    return (segments - teacher.float()[:, None]).square().mean((0, 2, 3, 4)).sum()


@methods.register("norm")
class NORM(Method):
    """The student's last features are expanded into many linear copies, and each copy learns the teacher's features."""

    class Options(MethodOptions):
        task_weight: float = label_weight(0.1, "The reference code uses 0.1.")
        weight: float = loss_weight(1.0, "The reference code uses 1.")
        segments: int = Field(
            8,
            ge=1,
            le=1000,
            description="How many copies of the teacher's features the student is trained to make. The paper "
            "calls it N, and uses 8.",
        )

    deploy = "fold"
    family = "feature"
    paper = "arXiv:2305.13803"
    needs = Needs(student="last+pooled", teacher="last+pooled")

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> bool:
        """Returns whether maps are compared, or pooled features."""
        classifier = classifier_of(student, "student")
        if not isinstance(classifier, nn.Linear):
            raise UsageError("norm needs a student whose classifier is an nn.Linear.", got=repr(classifier))
        if teacher is None or teacher.shapes.pooled is None:
            raise UsageError("norm needs a teacher with a pooled feature.", hint="use a method on logits or stages")
        maps = averaged(look(student)) and averaged(look(teacher))
        transformed = TransformedLinear(classifier, options.segments * teacher.shapes.pooled).to(classifier.weight)
        student.model.set_submodule(str(student.classifier_path), transformed)
        return maps

    @classmethod
    def fold(cls, net: nn.Module) -> None:
        for path, module in list(net.named_modules()):
            if isinstance(module, TransformedLinear):
                net.set_submodule(path, module.merged())

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        assert isinstance(student.classifier, TransformedLinear)
        assert student.pooled is not None and teacher.pooled is not None
        x, target = student.pooled[..., None, None], teacher.pooled[..., None, None]
        if self.attached:
            assert student.last is not None and teacher.last is not None
            x, target = same_size(student.last, teacher.last)
        expand = student.classifier.expand
        expanded = F.conv2d(x, expand.weight[..., None, None], expand.bias)
        return {"norm": self.options.weight * norm_loss(expanded, target)}
