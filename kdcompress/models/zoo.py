"""The CIFAR networks of the distillation papers, by name, and small ones for larger images (``small_*.py``).

Each ``cifar_*.py`` registers factories ``(classes, channels) -> nn.Module`` for float [N, channels, H, W]
inputs from 28x28 up. The parameters are named as in the checkpoints that CRD's authors published
(RepDistiller), so those load with ``load_weights``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from kdcompress.registry import Registry

zoo: Registry[Callable[..., nn.Module]] = Registry("model", "kdcompress.models", prefix=("cifar_", "small_"))


def init_weights(model: nn.Module) -> None:
    """He-normal convolutions by fan-out, groups not counted; the rest stays at torch's defaults."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (height * width * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
