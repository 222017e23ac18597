"""Amounts that are written with their unit: 2ms, 500kB."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}  # in ms
SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def amount(text: object, units: Mapping[str, float], forms: str) -> float:
    """ "2ms" in the first of ``units``' scale: the number times what its unit stands for, in either case.

    Raises ValueError, which names the ``forms`` that are allowed, for anything else: a number without a unit too.
    """
    scales = {unit.casefold(): scale for unit, scale in units.items()}
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([^\d\s.]+)\s*", str(text))
    scale = scales.get(found[2].casefold()) if found else None
    if found is None or scale is None or not 0 < float(found[1]) <= 1e15:
        missing = (
            " has no unit" if re.fullmatch(r"\s*[\d.]+\s*", str(text)) else " is not a positive number and its unit"
        )
        raise ValueError(f"{str(text).strip() or 'nothing'}{missing}: write {forms}")
    return float(found[1]) * scale


def milliseconds(text: object) -> float:
    return amount(text, TIMES, "500us, 2ms or 0.1s")


def size_in_bytes(text: object) -> int:
    return math.floor(amount(text, SIZES, "800B, 500kB, 1.5MB or 512KiB"))
