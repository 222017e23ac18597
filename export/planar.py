"""A network that takes plain pixels plane by plane, for the runtimes whose images are float [1, C, H, W]."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from kdcompress.artifact import InputSpec
from kdcompress.errors import KDCompressError

if TYPE_CHECKING:
    from torch import fx, nn


def planar(module: nn.Module, spec: InputSpec) -> tuple[fx.GraphModule, Any]:
    """(net, example): ``module`` for one image, float32 [1, C, H, W], and such an image.

    A net for ``uint8-nhwc`` loses its first transpose and cast and takes the same pixels, 0..255, as floats; its
    normalisation stays inside. One for ``float-nchw`` keeps taking 0..1. The module itself stays as it is.
    Raises KDCompressError where the network cannot be traced or begins with anything else.
    """
    import torch

    from kdcompress.models.copying import copied

    pixels = torch.randint(0, 256, (1, spec.channels, spec.height, spec.width), generator=torch.Generator()).float()
    floating = spec.layout == "float-nchw"
    example = pixels / 255 if floating else pixels.byte().permute(0, 2, 3, 1).contiguous()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that a forward keeps, as LeViT's does
            program = torch.export.export(copied(module).cpu().eval(), (example,))
    except Exception as error:  # a user's model can fail in any way
        raise KDCompressError(
            "PyTorch cannot trace this model for one image.",
            where=type(module).__name__,
            got=f"{type(error).__name__}: {str(error).strip()[:300]}",
            hint="the model's forward must be free of branches on tensor values and of a batch size as a number",
        ) from error
    traced: Any = program.module(check_guards=False)
    if not floating:
        _take_planes(traced.graph)
    # A module of its own: that of the program checks the shape of its input.
    return torch.fx.GraphModule(traced, traced.graph), example if floating else pixels


def _take_planes(graph: Any) -> None:
    """Remove the [N, H, W, C] -> [N, C, H, W] transpose and the uint8 -> float32 cast that follow the input."""
    import torch

    aten = torch.ops.aten
    for node in [node for node in graph.nodes if node.target == aten._assert_tensor_metadata.default]:
        graph.erase_node(node)
    image = next(node for node in graph.nodes if node.op == "placeholder")
    last, moved = image, False
    while len(last.users) == 1:
        node = next(iter(last.users))
        if node.target == aten.permute.default and list(node.args[1]) == [0, 3, 1, 2] and not moved:
            moved = True
        elif node.target not in (aten.to.dtype, aten._to_copy.default, aten.contiguous.default):
            break
        last = node
    if not moved or last.meta["val"].dtype != torch.float32:
        raise KDCompressError(
            "The model does not begin with the transpose and the cast of a uint8 [N, H, W, C] image.",
            got=", ".join([str(node.target) for node in graph.nodes if node.op == "call_function"][:4]),
            hint="set the recipe's export.layout to float-nchw",
        )
    last.replace_all_uses_with(image)
    graph.eliminate_dead_code()
