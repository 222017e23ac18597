"""Model compression via distillation and quantization. Polino, Pascanu and Alistarh, ICLR 2018, arXiv:1802.05668.

Quantized distillation (section 3): the student computes with quantised weights, and the gradient is applied to the full
ones (straight-through). The weights of the two losses and the temperature are those of the authors' code. Ours: a scale
for each output channel, symmetric, where the paper has buckets of 256 weights: it is what integer kernels compute
with, and it survives the folding of batch norms, which scales whole output channels. Activations stay as they are in
the paper; with ``activations`` the inputs of the layers are quantised too, between a running minimum and maximum
(Jacob et al., CVPR 2018, arXiv:1712.05877, section 3.1): quantisation-aware distillation.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdcompress.distributed import reduced
from kdcompress.methods import methods
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.methods.kd import KD
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps import Tapped

FLAT = 1e-6  # a batch norm's factor that says nothing of the weight
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fake_quantize(weight: Tensor, bits: int, per_channel: bool = True) -> Tensor:
    """``weight`` [out, ...] rounded to 2^bits - 1 evenly spaced values around 0, the outermost of them its largest
    magnitude in each output channel (section 2.1), or in all of it, in its dtype. The gradient passes as if nothing
    were rounded."""
    levels = 2 ** (bits - 1) - 1
    largest = weight.detach().flatten(1).abs().amax(1)
    largest = largest if per_channel else largest.amax().expand_as(largest)
    scale = largest.clamp_min(torch.finfo(weight.dtype).tiny * levels) / levels
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    return ((weight / scale).round() * scale).detach() + (weight - weight.detach())  # the latter is 0, with a gradient


class FakeQuantize(nn.Module):
    """``fake_quantize`` as the parametrization of a weight. With one scale for all channels the factors of the batch
    norm after it, which are part of the weight that ships, count as part of it here too."""

    def __init__(self, bits: int, per_channel: bool = True, norm: nn.Module | None = None):
        super().__init__()
        self.bits, self.per_channel = bits, per_channel
        self.norm = (norm,)  # no submodule: it is one of the network's own

    def forward(self, weight: Tensor) -> Tensor:
        norm: Any = self.norm[0]
        if norm is None or self.per_channel:
            return fake_quantize(weight, self.bits, self.per_channel)
        factor = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight.detach())
        factor = torch.where(factor.abs() < FLAT, FLAT, factor).view(-1, *[1] * (weight.ndim - 1))
        return fake_quantize(weight * factor, self.bits, False) / factor


class InputQuantizer(nn.Module):
    """A layer's input [N, ...] rounded to 2^bits evenly spaced values between the least and the largest seen, moving
    averages over the batches in training; the gradient passes inside that range. ``symmetric``: the range is as wide
    below 0 as above. In its dtype."""

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, momentum: float = 0.01, symmetric: bool = False):
        super().__init__()
        self.bits, self.momentum, self.symmetric = bits, momentum, symmetric
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            least, minus_largest = reduced(torch.stack([x.amin(), -x.amax()]).float().clamp(max=0), "MIN")
            for kept, seen in ((self.low, least), (self.high, -minus_largest)):
                kept.copy_(torch.where(kept == 0, seen, kept.lerp(seen, self.momentum)))
        levels = 2**self.bits - 1
        low, high = self.low, self.high
        if self.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scale = (high - low).clamp_min(torch.finfo(torch.float32).eps) / levels
        middle = torch.full_like(scale, 2 ** (self.bits - 1))
        zero = (middle if self.symmetric else (-low / scale).round().clamp(0, levels)).int()
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, levels).to(x.dtype)


def quantize_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A layer's forward pre-hook."""
    quantizer: Any = layer.input_quantizer
    return (quantizer(inputs[0]), *inputs[1:])


def norms_after(student: Tapped) -> dict[nn.Module, nn.Module]:
    """Layer -> the batch norm that takes its output, seen in one forward."""
    made: list[tuple[Tensor, nn.Module]] = []
    found: dict[nn.Module, nn.Module] = {}

    def after(layer: nn.Module, _: Any, output: Tensor) -> None:
        made.append((output, layer))

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.update({layer: norm for output, layer in made if output is inputs[0]})

    handles = []
    for module in student.model.modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_hook(after))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(before))
    parameter = next(student.model.parameters())
    with evaluating(student.model), torch.inference_mode():
        student.model(torch.zeros(1, *student.shapes.input, device=parameter.device, dtype=parameter.dtype))
    for handle in handles:
        handle.remove()
    return found


@methods.register("quantized")
class Quantized(KD):
    """KD of a student whose weights are quantised during the training. What ships has the quantised values."""

    class Options(KD.Options):
        task_weight: float = label_weight(0.3, "The authors' code uses 0.3.")
        weight: float = loss_weight(0.7, "The authors' code uses 0.7.")
        temperature: float = softening(2.0, "The authors' code uses 2.")
        bits: int = Field(8, ge=2, le=8, description="Bits of a weight. The paper uses 2, 4 and 8.")
        activations: int = Field(
            0, ge=0, le=8, description="Bits of a layer's input. 0: the inputs are not quantised, as in the paper."
        )
        symmetric: bool = Field(
            False, description="Quantise inputs between -a and a, in place of between their smallest and largest value."
        )
        per_channel: bool = Field(
            True,
            description="Give each output channel of a weight its own scale. false: one scale for the whole weight.",
        )
        exclude: tuple[str, ...] = Field((), description="Module paths of layers that are not quantised.")
        ends: bool = Field(
            True, description="Quantise the first and the last layer too. The authors' CIFAR-100 code does not."
        )

    paper = "arXiv:1802.05668"
    deploy = "fold"

    @classmethod
    def attach(cls, options: Any, student: Tapped, teacher: Tapped | None) -> None:
        named = student.model.named_modules()
        layers = [(name, module) for name, module in named if isinstance(module, LAYERS)]
        norms = {} if options.per_channel else norms_after(student)
        for name, layer in layers if options.ends else layers[1:-1]:
            if any(f"{name}.".startswith(f"{path}.") for path in options.exclude):
                continue
            if not parametrize.is_parametrized(layer):  # else its weight is made of others, which would not ship
                quantizer = FakeQuantize(options.bits, options.per_channel, norms.get(layer))
                parametrize.register_parametrization(layer, "weight", quantizer)
            if options.activations:
                layer.input_quantizer = InputQuantizer(options.activations, symmetric=options.symmetric)
                layer.register_forward_pre_hook(quantize_input)

    @classmethod
    def fold(cls, net: nn.Module) -> None:
        modules: list[Any] = list(net.modules())
        for module in modules:
            if isinstance(getattr(module, "input_quantizer", None), InputQuantizer):
                del module.input_quantizer
                for key, hook in list(module._forward_pre_hooks.items()):
                    if hook is quantize_input:
                        del module._forward_pre_hooks[key]
            chains = getattr(module, "parametrizations", {})
            if "weight" in chains and isinstance(chains["weight"][0], FakeQuantize):
                weight = nn.Parameter(module.weight.detach())
                # not remove_parametrizations: it changes the layer's class, which copies of the network share
                module.__class__ = type(module).__bases__[0]
                del module.parametrizations
                module.register_parameter("weight", weight)
