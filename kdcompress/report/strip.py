"""A file's layers as strips: each layer is as wide as it takes long, in the colour of one of its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from kdcompress.report import figures

THIN = 1.0  # per cent up to which a layer has no gap behind it: that would hide it
LABELLED = 5.0  # per cent of the page's width from which on a layer's name is in its block
PRECISIONS = {"int8": "s2", "fp32": "s0", "fp16": "s3", "bf16": "s5", "": "moves"}  # classes of report.css
GOOD_DB, BAD_DB = 40.0, 10.0  # colours are full at either end


def rows(file: Mapping[str, Any], longest: float) -> list[tuple[str, Markup]]:
    """The strips of a file that have something to show, each with its title: by type, by the share of the peak and by
    error. ``longest``: milliseconds that are as wide as the page, for two files on one scale."""
    found = [("Type", _strip(file, longest, _by_type))]
    if any(layer["of_peak"] is not None for layer in file["layers"]):
        found.append(("Share of the machine's peak: the more, the stronger", _strip(file, longest, _by_use)))
    if any(layer["snr_db"] is not None for layer in file["layers"]):
        found.append(("Error against the parent: the more, the stronger", _strip(file, longest, _by_error)))
    return found


def keys(files: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(class, word) of the colours of types."""
    there = dict.fromkeys(layer["precision"] for file in files for layer in file["layers"])
    return [(PRECISIONS.get(name, "s4"), name or "no arithmetic") for name in there]


def _strip(file: Mapping[str, Any], longest: float, look: Any) -> Markup:
    parts = []
    for layer in file["layers"]:
        wide = 100 * layer["median_ms"] / longest if longest else 0.0
        css, strength, value = look(layer)
        name = str(layer["of"] or layer["name"])
        tip = f"{name} ({layer['kind']}): {figures.significant(layer['median_ms'])} ms, {value}"
        strong = " strong" if strength > 0.6 and css != "moves" else ""
        thin = " thin" if wide < THIN else ""
        short = name if wide > 2 * LABELLED else ".".join(name.rsplit(".", 2)[-2:])
        label = f"<span>{escape(short)}</span>" if wide > LABELLED else ""
        parts.append(
            f'<div class="block {css}{strong}{thin}" style="width: {wide:.3f}%" title="{escape(tip)}">'
            f'<i style="opacity: {strength:.2f}"></i>{label}</div>'
        )
    label = f"Layers of {file['file']}"
    return Markup(f'<div class="strip" role="img" aria-label="{escape(label)}">{"".join(parts)}</div>')


def _by_type(layer: Mapping[str, Any]) -> tuple[str, float, str]:
    return PRECISIONS.get(layer["precision"], "s4"), 0.85, layer["precision"] or "no arithmetic"


def _by_use(layer: Mapping[str, Any]) -> tuple[str, float, str]:
    if layer["of_peak"] is None:
        return "moves", 0.5, "no multiply-accumulates"
    return "s0", 0.12 + 0.88 * min(1.0, layer["of_peak"]), f"{100 * layer['of_peak']:.0f} % of the peak"


def _by_error(layer: Mapping[str, Any]) -> tuple[str, float, str]:
    if layer["snr_db"] is None:
        return "moves", 0.5, "error not known"
    if math.isinf(layer["snr_db"]):
        return "s1", 0.04, "as in the parent"
    worse = (GOOD_DB - layer["snr_db"]) / (GOOD_DB - BAD_DB)
    return "s1", 0.04 + 0.96 * min(1.0, max(0.0, worse)), f"{layer['snr_db']:.1f} dB"
