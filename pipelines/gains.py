"""What trainings of several methods come to, and which gain is more than noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

BASELINE = "none"
# Student's t: the 97.5 % point for 1, 2, ... degrees of freedom.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def summary(
    trials: Sequence[dict[str, Any]], labels: Sequence[str], published: dict[str, float]
) -> list[dict[str, Any]]:
    """A row a method. ``gain`` is the mean difference to the baseline of the same seed (the same initial weights and
    batches), with its 95 % interval by Student's t; ``step`` the median time a step relative to kd's."""
    good = [t for t in trials if "error" not in t]
    of = {label: {t["seed"]: t for t in good if t["label"] == label} for label in labels}
    baseline = of.get(BASELINE, {})
    paces = {label: [t["seconds"] / t["images_seen"] for t in found.values()] for label, found in of.items()}
    reference = next((statistics.median(paces[name]) for name in ("kd", BASELINE) if paces.get(name)), None)
    rows = []
    for label in labels:
        found = list(of[label].values())
        row: dict[str, Any] = {
            "label": label,
            "n": len(found),
            "failed": sum(t["label"] == label for t in trials) - len(found),
        }
        for key in ("test_best", "test_last", "calibration_error", "agreement"):
            values = [t[key] for t in found if t.get(key) is not None]
            row[key] = statistics.mean(values) if values else None
            row[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        gains = [t["test_best"] - baseline[s]["test_best"] for s, t in of[label].items() if s in baseline]
        row |= interval(gains) if label != BASELINE else {}
        for key in ("images_seen", "teacher_passes", "auxiliary_parameters"):
            row[key] = found[0][key] if found else None
        row["step"] = statistics.median(paces[label]) / reference if found and reference else None
        row["published"] = published.get(label)
        rows.append(row)
    return rows


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval of paired differences; no interval of fewer than two."""
    if not differences:
        return {}
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return {"gain": mean}
    t = T975[n - 2] if n - 2 < len(T975) else 1.96 + 2.4 / (n - 1)
    half = t * statistics.stdev(differences) / n**0.5
    return {"gain": mean, "gain_low": mean - half, "gain_high": mean + half}
