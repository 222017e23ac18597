"""Layers of a ready-made network that other classes or channels need anew: in place, with random weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdcompress.errors import UsageError


def swap_classifier(model: nn.Module, name: str, old: int, new: int) -> None:
    """A new last layer, with ``new`` outputs, in place of the one that has ``old``. Raises UsageError where that is not
    one layer."""
    found = [path for path, module in model.named_modules() if _outputs(module) == old]
    if len(found) != 1:
        got = ", ".join(found) or f"no layer with {old} outputs"
        raise UsageError(f"The classifier of {name} cannot be told from its other layers.", got=got, allowed="one")
    module: Any = model.get_submodule(found[0])
    if isinstance(module, nn.Linear):
        model.set_submodule(found[0], nn.Linear(module.in_features, new, module.bias is not None))
    else:
        model.set_submodule(found[0], nn.Conv2d(module.in_channels, new, module.kernel_size, module.stride))


def _outputs(module: nn.Module) -> int | None:
    return getattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels", None)


def swap_first_convolution(model: nn.Module, name: str, channels: int) -> None:
    """A new first convolution, for images of so many channels. Raises UsageError where there is none."""
    convolutions = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise UsageError(f"{name} has no convolution to adapt.", got=f"{channels} channels", allowed="3 channels")
    module: Any = model.get_submodule(convolutions[0])
    swapped = nn.Conv2d(
        channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        bias=module.bias is not None,
    )
    model.set_submodule(convolutions[0], swapped)
