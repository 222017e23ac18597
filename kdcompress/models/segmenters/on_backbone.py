"""What the segmenters on any backbone share."""

from __future__ import annotations

from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.segmenters.answer import MapAnswer


def conv_norm_relu(inputs: int, outputs: int, side: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (side // 2)
    convolution = nn.Conv2d(inputs, outputs, side, padding=padding, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def classifier(inputs: int, classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Segmenter(nn.Module):
    """float [N, C, H, W] -> MapAnswer: what ``head`` makes of the backbone's maps, shallow to deep."""

    def __init__(self, backbone: Backbone, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.maps = nn.ModuleList(nn.Identity() for _ in backbone.channels)  # where methods on features look

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the backbone's."""
        return tuple(f"maps.{i}" for i in range(len(self.maps)))

    def forward(self, x: Tensor) -> MapAnswer:
        maps = [here(each) for here, each in zip(self.maps, self.backbone(x), strict=True)]
        return MapAnswer(self.head(maps), (x.shape[-2], x.shape[-1]))


def check_width(width: int) -> None:
    if not isinstance(width, int) or width < 4:
        raise UsageError("This option has another range.", where="options.width", got=width, allowed="4 or more")
