"""segmentation-models-pytorch's segmenters, by name: ``ARCHITECTURE/ENCODER``, such as ``unet/resnet18``.

The networks are that library's own, and their parameters keep its names. What enlarges the logits to the image's size
at the end is left out of those that have it as an option: losses and programs enlarge them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdcompress.errors import UsageError, unknown_name
from kdcompress.models.segmenters.answer import MapAnswer
from kdcompress.optional import require

PACKAGE = "segmentation-models-pytorch"
FORM = "smp/ARCHITECTURE/ENCODER"
TIMM = "tu-"  # what the library puts before the names of timm's networks
FINEST = 2  # of an encoder's maps the first that is a stage: before it are the image and a stem, at 1/2
POOLINGS = 3  # of PAN's coarsest map, to a half each
FIXED = ("encoder_name", "in_channels", "classes", "activation", "aux_params")


class Sum(nn.Module):
    """Of maps [N, C, h, w]. FPN's own stacks them along an axis of their own, which ncnn has not and crashes of."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        first, *others = maps
        return sum(others, first)


class SmpMaps(nn.Module):
    """float [N, C, H, W] -> MapAnswer, of a segmenter of segmentation-models-pytorch."""

    def __init__(self, segmenter: Any):
        super().__init__()
        self.encoder, self.decoder = segmenter.encoder, segmenter.decoder
        self.segmentation_head = segmenter.segmentation_head
        if getattr(getattr(self.decoder, "merge", None), "policy", "") == "add":
            self.decoder.merge = Sum()
        self.tokens = hasattr(self.encoder, "has_prefix_tokens")  # a vision transformer, which gives them beside maps
        kind, stride = type(segmenter).__name__, self.encoder.output_stride
        self.multiple = stride if segmenter.requires_divisible_input_shape else 1
        self.least = stride * 2**POOLINGS if kind == "PAN" else 1
        self.first = 0 if self.tokens else FINEST
        widths = self.encoder.out_channels[self.first :]
        self.maps = nn.ModuleList(nn.Identity() for _ in widths)  # where methods on features look

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the encoder's stages, from 1/4 of the image's
        resolution on."""
        return tuple(f"maps.{i}" for i in range(len(self.maps)))

    def forward(self, x: Tensor) -> MapAnswer:
        size = x.shape[-2], x.shape[-1]
        if any(side % self.multiple or side < self.least for side in size):
            allowed = f"multiples of {self.multiple}" + (f", from {self.least} on" if self.least > 1 else "")
            got = " x ".join(map(str, size))
            raise UsageError(
                "The images' sides do not fit this segmenter.", where="data.size", got=got, allowed=allowed
            )
        maps, *tokens = self.encoder(x) if self.tokens else (self.encoder(x),)
        stages = [here(each) for here, each in zip(self.maps, maps[self.first :], strict=True)]
        return MapAnswer(self.segmentation_head(self.decoder([*maps[: self.first], *stages], *tokens)), size)


def check(name: str) -> None:
    """Raises UsageError for a name that is no ``ARCHITECTURE/ENCODER``, RuntimeMissingError without the library."""
    library = _library()
    architecture, _, encoder = name.partition("/")
    known, example = list(library.MODEL_ARCHITECTURES_MAPPING), f"smp/{architecture}/resnet18"
    if architecture not in known:
        raise unknown_name("architecture", architecture, known, where=f"smp/{name}")
    if architecture == "dpt" and not encoder.startswith(TIMM):
        got, allowed = encoder or "none", "a vision transformer of timm, such as tu-vit_tiny_patch16_224"
        raise UsageError("This architecture needs another encoder.", where=f"smp/{name}", got=got, allowed=allowed)
    if not encoder:
        raise UsageError("The encoder is missing.", where=f"smp/{name}", allowed=FORM, hint=example)
    if encoder.startswith(TIMM):
        import timm

        if not timm.is_model(encoder.removeprefix(TIMM)):
            raise unknown_name("network of timm", encoder.removeprefix(TIMM), timm.list_models(), where=f"smp/{name}")
    elif encoder not in library.encoders.encoders:
        raise unknown_name("encoder", encoder, library.encoders.encoders, where=f"smp/{name}")


def facts(name: str, options: dict[str, Any]) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Of the weights of an encoder that is no network of timm: the number of classes that they were trained on, mean
    and deviation of pixels in 0..1. They are in a small file, downloaded where it is not in the library's cache. Raises
    UsageError for weights that there are none of."""
    said = _library().encoders.get_preprocessing_params(name.partition("/")[2], weights_of(name, options))
    if said["input_space"] != "RGB":
        got = said["input_space"]
        raise UsageError("These weights are for other images.", where=f"smp/{name}", got=got, allowed="RGB")
    mean, std = (tuple(value / said["input_range"][1] for value in said[key]) for key in ("mean", "std"))
    return 1000, mean, std


def origin(name: str, options: dict[str, Any]) -> str:
    """Where these weights are downloaded from."""
    settings = _library().encoders.encoders[name.partition("/")[2]]["pretrained_settings"]
    return f"https://huggingface.co/{settings[weights_of(name, options)]['repo_id']}"


def weights_of(name: str, options: dict[str, Any]) -> Any:
    """What the library calls the encoder's weights: those of ImageNet, or the first where there are none of these."""
    encoder = name.partition("/")[2]
    if encoder.startswith(TIMM):
        return True
    known = list(_library().encoders.encoders[encoder]["pretrained_settings"])
    chosen = options.get("encoder_weights") or ("imagenet" if "imagenet" in known else next(iter(known), None))
    if chosen not in known:
        allowed = ", ".join(known) or "none: there are no weights of this encoder"
        raise UsageError("There are no such weights.", where=f"smp/{name}", got=chosen, allowed=allowed)
    return chosen


def dense(name: str, classes: int, channels: int, options: dict[str, Any], pretrained: bool) -> SmpMaps:
    """A segmenter for ``classes`` labels. ``pretrained``: with the encoder's weights; the rest is always new. Raises
    what the library raises."""
    architecture, _, encoder = name.partition("/")
    for key in FIXED:
        if key in options:
            hint = "leave it out: the name and the data set decide it, and logits ship"
            raise UsageError(f"smp/{name}: the option {key!r} cannot be set.", got=options[key], hint=hint)
    made = _library().MODEL_ARCHITECTURES_MAPPING[architecture]
    given = {"encoder_name": encoder, "in_channels": channels, "classes": classes, **options}
    known = inspect.signature(made).parameters
    if not encoder.startswith(TIMM) and (unknown := sorted(set(options) - set(known))):  # the library takes them all
        raise unknown_name("option", unknown[0], set(known) - {"self", "kwargs", *FIXED}, where="model options")
    if "upsampling" in known:
        given.setdefault("upsampling", 1)
    if architecture == "dpt" and "img_size" not in options:
        given.setdefault("dynamic_img_size", True)
    given["encoder_weights"] = weights_of(name, options) if pretrained else None
    return SmpMaps(made(**given))


def _library() -> Any:
    return require("segmentation_models_pytorch", "smp", f"A segmenter of {PACKAGE}")
