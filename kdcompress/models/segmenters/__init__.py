"""Segmenters on any backbone, by name: ``HEAD/BACKBONE``. One file a head."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kdcompress.registry import Registry

heads: Registry[Callable[..., nn.Module]] = Registry("segmenter", "kdcompress.models.segmenters", prefix="head_")
