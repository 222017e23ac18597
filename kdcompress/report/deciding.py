"""What a report says of a classifier's decisions: precision and recall of each class, calibration, the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kdcompress.report import charts
from kdcompress.report.classes import MANY, WORST, EachClass
from kdcompress.report.figures import capital, fixed
from kdcompress.report.present import label

SHOWN = 4  # classes in a line
BINS = 15  # of ``tasks._calibration``
DEFINITION = (
    f"Expected calibration error (ECE): the images are put into {BINS} bins of equal width by the largest share that "
    "a file gives (softmax of its logits); the error is how far the mean of those shares is from the share of answers "
    "that are right, averaged over the images (Guo et al., 2017). The answer is the class with the largest share. 0 %: "
    "a file is as often right as it is sure."
)
TITLES = ["artefact", "ECE %", "mean of the largest shares %", "right %"]


def named(document: Mapping[str, Any], name: str) -> str:
    """A role, or what a file of that name is called."""
    row = next((row for row in document.get("rows") or [] if row.get("name") == name), None)
    return label(row) if row else name


def precision_and_recall(document: Mapping[str, Any]) -> EachClass | None:
    """Of each class, by each file that ``by_label`` has: None where they are not known."""
    found = [each for each in document.get("by_label") or [] if each.get("by")]
    if not found:
        return None
    files = list(found[0]["by"])
    titles = ["class", "n"]
    for name in files:
        who = named(document, name)
        titles += [f"{who}: precision %", "recall %", "answered"]

    def line(each: Mapping[str, Any]) -> list[str]:
        cells = [str(each["label"]), f"{each['n']:,}"]
        for by in (each["by"].get(name) or {} for name in files):
            cells += [fixed(by.get("precision")), fixed(by.get("recall")), f"{by.get('answered') or 0:,}"]
        return cells

    what = (
        "Precision: of the test images that get the class for an answer, the share that is of it. Recall: of its n "
        "test images, the share that gets it. Answered: how many get it."
    )
    if len(found) < MANY:
        return EachClass(what, titles, list(map(line, found)), [])
    worst = sorted(found, key=_recall)[:WORST]
    told = f"The {WORST} classes of {len(found):,} of which the student finds the smallest share. {what}"
    return EachClass(told, titles, list(map(line, worst)), list(map(line, found)))


def lines(document: Mapping[str, Any]) -> list[str]:
    """For a terminal: the student's classes, those that it finds least of first, and how calibrated the files are."""
    found = [each for each in document.get("by_label") or [] if (each.get("by") or {}).get("student")]
    told = []
    if found:
        worst = sorted(found, key=_recall)[:SHOWN]
        said = (
            f"{each['label']} {fixed(by['precision'])} / {fixed(by['recall'])} (n {each['n']:,})"
            for each in worst
            for by in [each["by"]["student"]]
        )
        of = f", the worst {SHOWN} of {len(found):,} classes" if len(found) > SHOWN else ""
        told.append(f"Precision / recall % of the student{of}: " + ", ".join(said))
    if files := _calibrated(document):
        errors = ", ".join(f"{name} {fixed(each['error'])} %" for name, each in files.items())
        told.append(f"Expected calibration error, {BINS} bins: {errors}")
    return told


def _recall(each: Mapping[str, Any]) -> float:
    recall = (each["by"].get("student") or {}).get("recall")
    return 200.0 if recall is None else float(recall)


def thresholds(document: Mapping[str, Any]) -> list[str]:
    """What decides between the two classes, by network."""
    found = []
    for role, told in (document.get("thresholds") or {}).items():
        first, second = told["labels"]
        found.append(
            f"Threshold of the {role}'s files: '{second}' where its share is above {told['share']:g}, else '{first}'. "
            f"Chosen on {told['images']:,} validation images: {told['name']} {fixed(told['score'])} % there, "
            f"{fixed(told['at_half'])} % at 0.5."
        )
    return found


def _calibrated(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return (document.get("calibration") or {}).get("files") or {}


def calibration(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """Titles, and a line for each file; None where nothing is known."""
    body = []
    for name, each in _calibrated(document).items():
        images = sum(n for n, _, _ in each["bins"]) or 1
        sure, right = (sum(bin[0] * bin[k] for bin in each["bins"]) / images for k in (1, 2))
        body.append([name, fixed(each["error"]), fixed(100 * sure), fixed(100 * right)])
    return (TITLES, body) if body else None


def reliability(document: Mapping[str, Any]) -> Markup | None:
    """The share that is right against the largest share, of the files that charts show, and the diagonal."""
    files, rows = _calibrated(document), {row.get("name"): row for row in document.get("rows") or []}
    series: list[tuple[str, Sequence[charts.Point], str]] = []
    for name in (document.get("calibration") or {}).get("drawn") or []:
        row = rows.get(name) or {}
        css = "s2 dashed" if row.get("target") else row.get("role") or "s3"
        series.append((name, [(sure, right) for _, sure, right in files.get(name, {}).get("bins") or []], css))
    if not any(points for _, points, _ in series):
        return None
    series.append(("as sure as right", [(0.0, 0.0), (1.0, 1.0)], "total"))
    return charts.curves(series, "largest share (mean of a bin)", "right", capital("reliability"))
