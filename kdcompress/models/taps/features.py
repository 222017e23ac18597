"""What a network without a classifier returned, as one feature of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdcompress.errors import UsageError
from kdcompress.models.answers import described_value
from kdcompress.models.taps.maps import map_shape

NAMES = ("pooler_output", "image_embeds", "x_norm_clstoken", "last_hidden_state")  # of libraries, the best first


def feature_of(output: Any, image: tuple[int, int]) -> Tensor:
    """The feature [N, D] in what a network gave of images of that height and width: a tensor [N, D] as it is; the mean
    over the tokens [N, T, D], or over the places of a map. Of a mapping or an object it is what has one of ``NAMES``;
    of a tuple or list the first tensor [N, D], else the last: the coarsest of several maps.

    Raises UsageError where there is no such tensor.
    """
    found = _tensor(output)
    if found is not None and found.is_floating_point():
        if found.ndim == 2:
            return found
        if found.ndim == 3:
            return found.mean(1)
        if found.ndim == 4 and (map := map_shape(found.shape, image)):
            return map.of(found).mean((2, 3))
    raise UsageError(
        "The network's output holds no features.",
        got=described_value(output),
        allowed="a tensor [N, D], tokens [N, T, D] or a map [N, C, H, W]; one of several, or under "
        + ", ".join(f"`{name}`" for name in NAMES),
    )


def _tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output.get(name) for name in NAMES]
    else:
        named = [getattr(output, name, None) for name in NAMES]
    found = [value for value in named if isinstance(value, Tensor)]
    if not found and isinstance(output, (tuple, list)):
        several = [value for value in output if isinstance(value, Tensor)]
        found = [value for value in several if value.ndim == 2] or several[-1:]
    return found[0] if found else None
