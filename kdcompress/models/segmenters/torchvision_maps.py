"""torchvision's segmenters, by name: LR-ASPP, DeepLabv3 and FCN. The networks are torchvision's own; their auxiliary
classifiers, which help a training alone, are left out."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.segmentation import LRASPP

from kdcompress.models.segmenters.answer import MapAnswer


class TorchvisionMaps(nn.Module):
    """float [N, C, H, W] -> MapAnswer, of a torchvision segmenter."""

    def __init__(self, segmenter: Any):
        super().__init__()
        self.segmenter = segmenter
        segmenter.aux_classifier = None

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: those that the head looks at, and of a ResNet those
        before them."""
        backbone = self.segmenter.backbone
        layers = [name for name, _ in backbone.named_children() if name.startswith("layer")]
        used = [name for name, of in backbone.return_layers.items() if of != "aux"]
        return tuple(f"segmenter.backbone.{name}" for name in layers or used)

    def forward(self, x: Tensor) -> MapAnswer:
        maps = self.segmenter.backbone(x)
        found: Tensor = self.segmenter.classifier(maps if isinstance(self.segmenter, LRASPP) else maps["out"])
        return MapAnswer(found, (x.shape[-2], x.shape[-1]))


def segmenters() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.segmentation)


def dense(name: str, classes: int, options: dict[str, Any], pretrained: bool) -> TorchvisionMaps:
    """A segmenter for ``classes`` labels. ``pretrained``: with torchvision's weights; its last layers are new ones
    where there are more or fewer labels than these know. Raises what torchvision raises."""
    if not pretrained:
        made = {"weights": None, "weights_backbone": None, **options, "num_classes": classes}
        return TorchvisionMaps(torchvision.models.get_model(name, **made))
    weights = torchvision.models.get_model_weights(name).verify(options.get("weights") or "DEFAULT")
    segmenter: Any = torchvision.models.get_model(name, **{**options, "weights": weights})
    if classes != len(weights.meta["categories"]):
        last = segmenter.classifier
        for place in ("low_classifier", "high_classifier") if isinstance(segmenter, LRASPP) else (str(len(last) - 1),):
            before = last.get_submodule(place)
            last.set_submodule(place, nn.Conv2d(before.in_channels, classes, 1))
    return TorchvisionMaps(segmenter)
