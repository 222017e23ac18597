"""Charts as inline SVG. Colours are classes of report.css, so a chart follows the page into dark mode and print.

Every function returns Markup, or None where there is nothing to draw. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

Point = tuple[float, float]
Bar = tuple[float, float, float, float, float, float]  # x and the ends of its interval, y and those of its own
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 468, 14, 252
LARGEST_CELL = 64
CHAR = 7.1  # mean width of a character at the charts' largest font size, that on phones


class Axis:
    """Values lo..hi, linear or logarithmic, on the pixels a..b. ``whole``: of a count, marked at whole numbers."""

    def __init__(
        self, values: Sequence[float], a: float, b: float, log: bool = False, pad: float = 0.08, whole: bool = False
    ):
        self.a, self.b, self.log, self.whole = a, b, log, whole
        lo, hi = self._on(min(values)), self._on(max(values))
        room = pad * (hi - lo) if hi > lo else 0.15 if log else max(abs(hi) * 0.05, 0.5)
        self.lo, self.hi = lo - room, hi + room

    def _on(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        return round(self.a + (self._on(value) - self.lo) / (self.hi - self.lo) * (self.b - self.a), 1)

    def ticks(self, about: int = 5) -> list[float]:
        if self.log:
            decades = range(math.floor(self.lo), math.ceil(self.hi) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
                found = [s * 10.0**d for d in decades for s in steps if self.lo <= math.log10(s * 10.0**d) <= self.hi]
                if len(found) >= 3:
                    return found
        low, high = (10**self.lo, 10**self.hi) if self.log else (self.lo, self.hi)
        raw = (high - low) / about
        decade = 10.0 ** math.floor(math.log10(raw))
        step = next((s * decade for s in (1, 2, 5) if s * decade >= raw), 10 * decade)
        if self.whole and high - low > 1:
            step = max(1, round(step))
        return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def scatter(points: Sequence[Mapping[str, Any]], x_label: str, y_label: str, title: str) -> Markup | None:
    """Points {x, y, label, role} on a logarithmic x and a linear y, each labelled where there is room."""
    points = [p for p in points if p.get("x") and p.get("y") is not None]
    if not points:
        return None
    x = Axis([p["x"] for p in points], LEFT, RIGHT, log=True, pad=0.12)
    y = Axis([p["y"] for p in points], BOTTOM, TOP, pad=0.15)
    at = [(x(p["x"]), y(p["y"])) for p in points]
    taken = [(cx - 6, cy - 6, cx + 6, cy + 6) for cx, cy in at]
    drawn = []
    for point, (cx, cy) in zip(points, at, strict=True):
        role = "teacher" if point.get("role") == "teacher" else "student"
        tip = f"{point['label']}: {y_label} {point['y']:.4g}, {x_label} {point['x']:.4g}"
        mark = (
            f'<rect x="{cx - 5:.1f}" y="{cy - 5:.1f}" width="10" height="10" rx="1.5"/>'
            if role == "teacher"
            else f'<circle cx="{cx}" cy="{cy}" r="5.5"/>'
        )
        drawn.append(f'<g class="mark {role}">{mark}<title>{escape(tip)}</title></g>')
        drawn.append(_label(point["label"], cx, cy, taken))
    return _svg(_axes(x, y, x_label, y_label) + "".join(drawn), title)


def lines(
    series: Sequence[tuple[str, Sequence[Point], str]], x_label: str, y_label: str, title: str, log: bool = False
) -> Markup | None:
    """Lines (label, points by epoch, class), with a legend below where there is more than one."""
    finite = [(name, [p for p in points if _drawable(p[1], log)], css) for name, points, css in series]
    series = [line for line in finite if line[1]]
    if not series:
        return None
    every = [point for _, points, _ in series for point in points]
    x = Axis([p[0] for p in every], LEFT, RIGHT, pad=0.02, whole=True)
    y = Axis([p[1] for p in every], BOTTOM, TOP, log=log)
    parts = [_axes(x, y, x_label, y_label)]
    for name, points, css in series:
        path = " ".join(f"{x(a)},{y(b)}" for a, b in points)
        tip = f"{name}: last {points[-1][1]:.4g}"
        parts.append(f'<g class="line {css}"><polyline points="{path}"/><title>{escape(tip)}</title>')
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0])}" cy="{y(points[0][1])}" r="3"/>')
        parts.append("</g>")
    legend, height = _legend([(name, css) for name, _, css in series])
    return _svg("".join(parts) + legend, title, HEIGHT + height)


def curves(series: Sequence[tuple[str, Sequence[Point], str]], x_label: str, y_label: str, title: str) -> Markup | None:
    """Lines (label, points, class) of two figures that are 0..1, with a legend below where there is more than one."""
    series = [(name, [p for p in points if None not in p], css) for name, points, css in series]
    series = [line for line in series if line[1]]
    if not series:
        return None
    x, y = Axis([0, 1], LEFT, RIGHT, pad=0), Axis([0, 1], BOTTOM, TOP, pad=0)
    parts = [_axes(x, y, x_label, y_label)]
    for name, points, css in series:
        path = " ".join(f"{x(a)},{y(b)}" for a, b in points)
        parts.append(f'<g class="line {css}"><polyline points="{path}"/><title>{escape(name)}</title></g>')
    legend, height = _legend([(name, css) for name, _, css in series])
    return _svg("".join(parts) + legend, title, HEIGHT + height)


def measured(
    series: Sequence[tuple[str, Sequence[Bar], str]], x_label: str, y_label: str, title: str, joined: bool = True
) -> Markup | None:
    """Points with their intervals (label, points, class), a line through them where they are ``joined``, and a legend
    below where there is more than one series."""
    series = [line for line in series if line[1]]
    every = [bar for _, bars, _ in series for bar in bars]
    if not every:
        return None
    x = Axis([value for bar in every for value in bar[:3]], LEFT, RIGHT, pad=0.03)
    y = Axis([value for bar in every for value in bar[3:]], BOTTOM, TOP)
    parts = [_axes(x, y, x_label, y_label)]
    for name, bars, css in series:
        path = " ".join(f"{x(bar[0])},{y(bar[3])}" for bar in bars)
        parts.append(f'<g class="line {css}"><polyline points="{path}"/></g>' if joined else "")
        for a, left, right, b, low, high in bars:
            across = f"M{x(left)} {y(b)}H{x(right)}M{x(a)} {y(low)}V{y(high)}"
            tip = escape(f"{name}: {y_label} {b:.4g} ({low:.4g} to {high:.4g}), {x_label} {a:.4g}")
            parts.append(f'<g class="line {css}"><path style="stroke-width: 1.2" d="{across}"/></g>')
            parts.append(f'<g class="mark {css}"><circle cx="{x(a)}" cy="{y(b)}" r="4"/><title>{tip}</title></g>')
    legend, height = _legend([(name, css) for name, _, css in series])
    return _svg("".join(parts) + legend, title, HEIGHT + height)


def ridges(rows: Sequence[tuple[str, Sequence[float]]], title: str) -> Markup | None:
    """The distribution of each row's latencies in ms, up to its 99th percentile, on one logarithmic axis."""
    kept = [(name, np.sort(np.asarray(samples, float))) for name, samples in rows]
    kept = [(name, s[: math.ceil(0.99 * len(s))]) for name, s in kept if len(s) and s[0] > 0]
    if not kept:
        return None
    step, left = 46, 14
    bottom = 12 + step * len(kept)
    x = Axis([v for _, s in kept for v in (s[0], s[-1])], left, RIGHT, log=True, pad=0.04)
    bins = np.linspace(x.lo, x.hi, 120)
    parts = [_x_ticks(x, 12, bottom), _x_title("latency of one query, ms", bottom, left)]
    for i, (name, samples) in enumerate(kept):
        base = 12 + step * (i + 1) - 6
        heights, _ = np.histogram(np.log10(samples), bins)
        heights = 26 * heights / heights.max()
        pixels = np.interp((bins[:-1] + bins[1:]) / 2, (x.lo, x.hi), (left, RIGHT))
        path = " ".join(f"{a:.1f},{base - h:.1f}" for a, h in zip(pixels, heights, strict=True))
        middle = x(float(np.median(samples)))
        parts.append(
            f'<g class="ridge"><polygon points="{left},{base} {path} {RIGHT},{base}"/>'
            f'<line class="middle" x1="{middle}" x2="{middle}" y1="{base}" y2="{base - 28}"/>'
            f"<title>{escape(name)}: median {np.median(samples):.4g} ms</title></g>"
        )
        right = middle < (left + RIGHT) / 2
        anchor, where = ("end", RIGHT) if right else ("start", left)
        parts.append(f'<text x="{where}" y="{base - 18}" text-anchor="{anchor}">{escape(name)}</text>')
    return _svg("".join(parts), title, bottom + 48)


def spread(rows: Sequence[tuple[str, Sequence[float]]], x_label: str, title: str) -> Markup | None:
    """Each row's values as dots, with a bar of a standard deviation to both sides of their mean."""
    kept = [(name, np.asarray(values, float)) for name, values in rows if len(values)]
    if not kept:
        return None
    left = min(200.0, 20 + CHAR * max(len(name) for name, _ in kept))
    step, top = 24, 8
    bottom = top + step * len(kept)
    spreads = [(float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else 0.0) for _, v in kept]
    ends = [mean + side * sd for mean, sd in spreads for side in (-1, 1)]
    x = Axis([*ends, *(float(v) for _, values in kept for v in values)], left, RIGHT, pad=0.06)
    parts = [_x_ticks(x, top, bottom), _x_title(x_label, bottom, left)]
    for i, (name, values) in enumerate(kept):
        middle = top + step * (i + 0.5)
        mean, sd = spreads[i]
        low, high = x(mean - sd), x(mean + sd)
        parts.append(f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<g class="line s0"><line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/></g>')
        parts += [f'<g class="mark s0"><circle cx="{x(float(v))}" cy="{middle}" r="4"/></g>' for v in values]
        parts.append(f'<g class="mark s1"><rect x="{x(mean) - 1.5:.1f}" y="{middle - 8}" width="3" height="16"/>')
        parts.append(f"<title>{escape(name)}: {mean:.2f} ± {sd:.2f}</title></g>")
    return _svg("".join(parts), title, bottom + 48)


def change_map(labels: Sequence[str], change: Sequence[Sequence[int]], title: str) -> Markup | None:
    """Student minus teacher as a heat map: what got better in one colour, what got worse in another."""
    n = len(labels)
    if not 1 < n <= 40 or not any(map(any, change)):
        return None
    short = [label if len(label) <= 12 else label[:11] + "…" for label in map(str, labels)]
    margin = min(92, 12 + CHAR * max(map(len, short)))
    cell = min((RIGHT - margin) / n, LARGEST_CELL)
    most = max(1, *(abs(value) for line in change for value in line))
    parts = []
    for i in range(n):
        middle = 6 + cell * (i + 0.5)
        parts.append(f'<text x="{margin - 6}" y="{middle + 4:.1f}" text-anchor="end">{escape(short[i])}</text>')
        place = margin + cell * (i + 0.5)
        parts.append(
            f'<text transform="translate({place + 4:.1f} {12 + cell * n:.1f}) rotate(-90)" text-anchor="end">'
            f"{escape(short[i])}</text>"
        )
        for j, value in enumerate(change[i]):
            kind = "none" if not value else "better" if (value > 0) == (i == j) else "worse"
            strength = 0.12 + 0.88 * math.sqrt(abs(value) / most) if value else 1
            more = "more" if value > 0 else "fewer"
            tip = f"true {labels[i]}, predicted {labels[j]}: {abs(value)} {more} ({kind})" if value else ""
            box = f'x="{margin + cell * j:.1f}" y="{6 + cell * i:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}"'
            parts.append(f'<g class="cell {kind}"><rect {box} rx="2" fill-opacity="{strength:.2f}"/>')
            text = f"{value:+d}".replace("-", "−")
            if value and cell > max(22, 7.6 * len(text)):
                strong = " strong" if strength > 0.6 else ""
                parts.append(
                    f'<text class="value{strong}" x="{margin + cell * (j + 0.5):.1f}" y="{middle + 4:.1f}" '
                    f'text-anchor="middle">{text}</text>'
                )
            parts.append(f"<title>{escape(tip)}</title></g>" if tip else "</g>")
    bottom = 16 + cell * n + CHAR * max(map(len, short))
    return _svg("".join(parts), title, math.ceil(bottom))


def _drawable(value: Any, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _svg(inside: str, title: str, height: float = HEIGHT) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{inside}</svg>')


def _axes(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    parts = [_x_ticks(x, TOP, BOTTOM), _x_title(x_label, BOTTOM, LEFT)]
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    turned = f'transform="translate(12 {(TOP + BOTTOM) / 2}) rotate(-90)"'
    parts.append(f'<text class="title" {turned} text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _x_ticks(x: Axis, top: float, bottom: float) -> str:
    return "".join(
        f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(tick)}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>'
        for tick in x.ticks()
    )


def _x_title(text: str, bottom: float, left: float) -> str:
    return f'<text class="title" x="{(left + RIGHT) / 2}" y="{bottom + 38}" text-anchor="middle">{escape(text)}</text>'


def _label(text: str, cx: float, cy: float, taken: list[tuple[float, float, float, float]]) -> str:
    """The point's label at the first place beside it that is free; none, where all are taken."""
    wide = CHAR * len(text)
    places = [
        (cx + 9, cy + 4, "start", cx + 9),
        (cx - 9, cy + 4, "end", cx - 9 - wide),
        (cx, cy - 11, "middle", cx - wide / 2),
        (cx, cy + 19, "middle", cx - wide / 2),
        (cx + 7, cy - 11, "start", cx + 7),
        (cx + 7, cy + 19, "start", cx + 7),
        (cx - 7, cy - 11, "end", cx - 7 - wide),
        (cx - 7, cy + 19, "end", cx - 7 - wide),
    ]
    for x, y, anchor, left in places:
        box = (left, y - 11, left + wide, y + 3)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    return ""


def _legend(entries: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """The legend below the axis, and the height it adds."""
    if len(entries) < 2:
        return "", 0
    parts, x, y = [], float(LEFT), HEIGHT + 14
    for name, css in entries:
        wide = 26 + CHAR * len(name)
        if x + wide > RIGHT and x > LEFT:
            x, y = float(LEFT), y + 18
        parts.append(f'<g class="line {css}"><line x1="{x:.1f}" x2="{x + 16:.1f}" y1="{y - 4}" y2="{y - 4}"/></g>')
        parts.append(f'<text x="{x + 21:.1f}" y="{y}">{escape(name)}</text>')
        x += wide + 14
    return "".join(parts), y - HEIGHT + 6


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 else f"{value:.0e}"
