"""Figures as the reports write them."""

from __future__ import annotations

NONE = "–"  # not measured


def capital(text: str) -> str:
    """With a capital first letter; the others stay: box AP is Box AP."""
    return text[:1].upper() + text[1:]


def size(count: float | None) -> str:
    """Bytes in kB or MB (powers of 1000), three digits."""
    if count is None:
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{significant(count / factor)} {unit}"
    return f"{count:.0f} B"


def count(value: float | None) -> str:
    """78 k, 11.2 M."""
    if value is None:
        return NONE
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def significant(value: float | None, digits: int = 3) -> str:
    """Three digits and no exponent: 0.310, 12.5, 1340."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}"
    return text.rstrip(".") if "e" not in text else f"{value:.0f}" if abs(value) >= 1 else f"{value:.6f}"


def times(value: float) -> str:
    return apart(value, 1.0) if value < 2 else f"{value:.1f}" if value < 20 else f"{value:.0f}"


def apart(value: float, limit: float, digits: int = 2) -> str:
    """With so many decimals, and more where it would read as its ``limit`` and is not."""
    while digits < 6 and value != limit and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"


def fixed(value: float | None) -> str:
    return NONE if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
