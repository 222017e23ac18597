"""Hugging Face's real-time detection transformers, by name: RT-DETRv2 (Lv et al. 2024, arXiv:2407.17140). ``rtdetr_v2``
is made of a configuration's options, ``OWNER/NAME`` has the configuration of that repository of the Hub.

The network and its loss are the library's own. It chooses the places of an image that it answers for, its queries. The
part of the training that learns from noisy boxes (``num_denoising``) is left out: networks do not see the truth here.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcompress.data.objects import BOX, CLASS, KIND, OBJECT
from kdcompress.errors import UsageError, unknown_name
from kdcompress.models.detectors.towers import clamped
from kdcompress.optional import require

PACKAGE = "transformers"
FORM = "transformers/OWNER/NAME"
KINDS = {"rtdetr_v2": "RTDetrV2"}  # what the library's classes begin with
FIXED = ("num_labels", "id2label", "label2id", "num_denoising")
MULTIPLE = 32  # of the images' sides


class QueryAnswer(NamedTuple):
    """``layers``: logits [N, L, Q, K] of each layer of the decoder, and ``centres`` [N, L, Q, 4]: x, y, width and
    height as shares of the image. ``first_logits`` [N, Q, K] and ``first_centres`` [N, Q, 4] are those of the encoder.
    ``size`` is the image's height and width, ``of`` the detector."""

    layers: Tensor
    centres: Tensor
    first_logits: Tensor
    first_centres: Tensor
    size: tuple[int, int]
    of: TransformersQueries

    @property
    def chosen(self) -> bool:
        """The places, by the network."""
        return True

    @property
    def logits(self) -> Tensor:
        """[N, Q, K]."""
        return self.layers[:, -1]

    def at(self, other: Any) -> QueryAnswer:
        raise UsageError(
            "The answers of a detection transformer cannot be compared place by place: each chooses its own.",
            hint="take a method that compares features, such as cwd, fgd or reviewkd",
        )

    def shipped(self) -> tuple[Tensor, ...]:
        """Boxes [N, Q, 4], x1, y1, x2, y2 in pixels, and scores [N, Q, K]."""
        height, width = self.size
        middles, sizes = self.centres[:, -1].float().split(2, 2)
        scale = torch.tensor([float(width), float(height)] * 2, device=middles.device)
        boxes = torch.cat([middles - sizes / 2, middles + sizes / 2], 2) * scale
        return clamped(boxes, self.size), self.logits.float().sigmoid()

    def loss(self, y: Tensor) -> Tensor:
        """The library's: the sum of what it weighs, over all layers. ``y`` float [N, M, 6] as in ``data.objects``. A
        float32 scalar, divided by the number of objects in the batch."""
        height, width = self.size
        scale = torch.tensor([width, height, width, height], device=y.device)
        targets = []
        for each in y:
            rows = each[each[:, KIND] == OBJECT]
            low, high = (rows[:, BOX] / scale).split(2, 1)
            boxes = torch.cat([(low + high) / 2, high - low], 1)
            targets.append({"class_labels": rows[:, CLASS].long(), "boxes": boxes})
        layers, centres = self.layers.float(), self.centres.float()
        found, _, _ = self.of.criterion(
            layers[:, -1],
            targets,
            layers.device,
            centres[:, -1],
            self.of.config,
            layers,
            centres,
            enc_topk_logits=self.first_logits.float(),
            enc_topk_bboxes=self.first_centres.float(),
            denoising_meta_values=None,
        )
        return torch.as_tensor(found)


class TransformersQueries(nn.Module):
    """float [N, C, H, W] -> QueryAnswer, of a detection transformer, whose parameters keep their names."""

    def __init__(self, detector: Any):
        super().__init__()
        self.model, self.config, self.criterion = detector.model, detector.config, detector.loss_function
        # The library asks for len(tensor), a number that a graph would have for good: with this, a size that may vary.
        vars(sys.modules[type(detector).__module__])["len"] = _len

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the levels that the decoder looks at."""
        return tuple(f"model.decoder_input_proj.{i}" for i in range(self.config.num_feature_levels))

    def forward(self, x: Tensor) -> QueryAnswer:
        size = x.shape[-2], x.shape[-1]
        if any(side % MULTIPLE for side in size):
            got, allowed = " x ".join(map(str, size)), f"multiples of {MULTIPLE}"
            raise UsageError("The images' sides do not fit this detector.", where="data.size", got=got, allowed=allowed)
        found = self.model(x)
        layers, centres = found.intermediate_logits, found.intermediate_reference_points
        return QueryAnswer(layers, centres, found.enc_topk_logits, found.enc_topk_bboxes, size, self)


def _len(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def check(name: str) -> None:
    """Raises UsageError for a name that is none, RuntimeMissingError without the library."""
    _library()
    if "/" not in name and name not in KINDS:
        raise unknown_name("detector of transformers", name, KINDS, where=f"transformers/{name}")
    if name.count("/") > 1:
        allowed = "transformers/OWNER/NAME, such as transformers/PekingU/rtdetr_v2_r18vd"
        raise UsageError("This is no repository of the Hub.", where=f"transformers/{name}", allowed=allowed)


def origin(name: str, options: dict[str, Any]) -> str:
    """Where the weights are downloaded from. Raises UsageError where there are none."""
    if "/" not in name:
        hint = "name them by their repository, such as transformers/PekingU/rtdetr_v2_r18vd"
        raise UsageError("A configuration has no weights.", where=f"transformers/{name}", hint=hint)
    return f"https://huggingface.co/{name}"


def facts(name: str, options: dict[str, Any]) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """The number of labels that the weights know, mean and deviation of pixels in 0..1. These are in small files,
    downloaded where they are not in the library's cache."""
    from huggingface_hub import hf_hub_download

    config = _config_of(name)
    with open(hf_hub_download(name, "preprocessor_config.json"), encoding="utf-8") as file:
        said = json.load(file)
    if not said.get("do_normalize"):
        return config.num_labels, (0.0,) * 3, (1.0,) * 3
    return config.num_labels, tuple(said["image_mean"]), tuple(said["image_std"])


def dense(name: str, classes: int, channels: int, options: dict[str, Any], pretrained: bool) -> TransformersQueries:
    """A detector for ``classes`` labels. ``pretrained``: with the repository's weights; its layers for labels are new
    ones where there are more or fewer labels than these know. Raises what the library raises."""
    library = _library()
    for key in FIXED:
        if key in options:
            raise UsageError(f"transformers/{name}: the option {key!r} cannot be set.", got=options[key])
    config = _config_of(name) if "/" in name else _config(KINDS[name], channels, dict(options))
    if "/" in name:
        config.update(options)
    known = config.num_labels
    config.num_labels, config.num_denoising = classes, 0
    made = getattr(library, f"{_kind_of(config, name)}ForObjectDetection")
    if not pretrained:
        return TransformersQueries(made(config))
    if channels != 3:
        raise UsageError(
            "These weights are for other images.", where=f"transformers/{name}", got=f"{channels} channels"
        )
    given = {"ignore_mismatched_sizes": known != classes, "use_safetensors": True, "dtype": torch.float32}
    return TransformersQueries(made.from_pretrained(name, config=config, **given))


def _config(kind: str, channels: int, options: dict[str, Any]) -> Any:
    """Of options. Those of the backbone are under ``backbone_config``; widths that follow from others are filled in."""
    library = _library()
    default = getattr(library, f"{kind}Config")()
    backbone = {"out_indices": [2, 3, 4], **options.pop("backbone_config", {}), "num_channels": channels}
    made = type(default.backbone_config)(**backbone)
    width = options.get("encoder_hidden_dim", default.encoder_hidden_dim)
    options.setdefault("encoder_in_channels", list(made.hidden_sizes[-3:]))
    options.setdefault("decoder_in_channels", [width] * 3)
    options.setdefault("freeze_backbone_batch_norms", False)  # nobody trained them
    unknown = sorted(set(options) - set(default.to_dict()))
    if unknown:
        raise unknown_name("option", unknown[0], default.to_dict(), where="model options")
    return type(default)(backbone_config=made, **options)


def _config_of(name: str) -> Any:
    return _library().AutoConfig.from_pretrained(name, trust_remote_code=False)


def _kind_of(config: Any, name: str) -> str:
    kind = type(config).__name__.removesuffix("Config")
    if kind not in KINDS.values():
        allowed = ", ".join(KINDS.values())
        raise UsageError("This is another network.", where=f"transformers/{name}", got=kind, allowed=allowed)
    return kind


def _library() -> Any:
    library = require("transformers", "transformers", "A detection transformer")
    require("scipy", "transformers", "A detection transformer's loss")
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")  # checks that no exporter can write
    return library
