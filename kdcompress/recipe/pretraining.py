"""A pre-training: the student learns a teacher's features, from images alone, before its own training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdcompress.own_code import is_own
from kdcompress.recipe.networks import Methods, Network
from kdcompress.recipe.section import Section
from kdcompress.recipe.training import Augment, Train

USUAL = "feature-pretraining"


class Foundation(Network):
    """A network that teaches features. It is trained already, and needs no classifier."""

    @model_validator(mode="after")
    def trained(self) -> Foundation:
        if self.weights is None and not self.pretrained and not is_own(self.model):
            raise ValueError(
                "give `pretrained: true` (the weights that torchvision or timm download) or `weights` (a file of "
                "them): only a callable of your own may bring its own"
            )
        return self


class FeatureTrain(Train):
    """A pre-training. Its keys are those of a training, some with other defaults; there are no labels in it."""

    epochs: float = Field(100, gt=0, le=10_000, description="Passes over the images.")
    batch_size: int = Field(256, ge=2, le=65_536, description="Images in each iteration, over all processes together.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="The optimiser.")
    lr: float = Field(
        2e-4,
        gt=0,
        le=10,
        description="Learning rate, at its highest point in the schedule. It grows with the square root of the batch: "
        "5e-4 for 1536 images.",
    )
    weight_decay: float = Field(
        1e-6,
        ge=0,
        lt=1,
        description="Share by which each iteration shrinks the weights, times the learning rate. 0.04 is usual for "
        "transformers.",
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the pre-training in which the learning rate rises.")
    clip_norm: float | None = Field(
        1.0, gt=0, le=1e6, description="Largest norm of the gradient; a longer one is scaled down. null: no limit."
    )
    select: Literal["best", "last"] = Field(
        "last",
        description="Which weights are kept. best: those whose features are most like the teacher's on validation "
        "images. last: those at the end.",
    )

    @model_validator(mode="after")
    def without_labels(self) -> FeatureTrain:
        labels, answers = "a pre-training has no labels, all of its images are alike", "features are not kept"
        why = dict.fromkeys(("label_smoothing", "unlabelled", "balance"), labels) | {"teacher_cache_top": answers}
        why |= {"tune": "only `train` and `teacher.train` can be tuned"}
        for key, reason in why.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"leave `{key}` out: {reason}")
        return self


class Pretrain(Section):
    """A pre-training of the student, before its own training, which starts from its weights. The images are the
    training images and those of `data.unlabelled`; no label is looked at."""

    teacher: Foundation | None = Field(
        None, description="The network whose features are taught. null: the recipe's `teacher`."
    )
    method: Methods = Field(
        {USUAL: {}},
        description="How the features are taught: a name, {name: {option: value}}, or a list of these. Methods on "
        "features and relations; those on logits or labels are refused.",
    )
    augment: Augment | None = Field(
        None,
        description="Random changes of each image. null: those of `data.augment`, with `mixup: 1` where they mix "
        "nothing.",
    )
    train: FeatureTrain = Field(FeatureTrain(), description="Its length, and its optimiser.")

    def views(self, usual: Augment) -> Augment:
        """Of its images, where those of the training are the ``usual`` ones."""
        if self.augment is not None:
            return self.augment
        return usual if usual.mixes else usual.model_copy(update={"mixup": 1.0})
