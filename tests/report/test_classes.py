"""Warnings, and what a report says of each class."""

import io
import json
import re

import pytest
from rich.console import Console

from kdcompress.report import classes, present
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown
from kdcompress.report.terminal import print_report


def words(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def by_label(count, teacher=True, files=("student x86-vnni",)):
    """Class k has 1000 + k images; the student is right for 90 - k / 10 % of them."""
    return [
        {
            "label": f"class {k}",
            "n": 1000 + k,
            "teacher": 95.0 if teacher else None,
            "student": 90 - k / 10,
            "files": {name: 89.5 - k / 10 for name in files},
        }
        for k in range(count)
    ]


def test_each_class_by_hand(document):
    found = classes.each_class({**document, "by_label": by_label(3)})
    assert found.titles == ["class", "n", "teacher %", "student %", "int8 x86-vnni %"]
    assert found.lines == [
        ["class 0", "1,000", "95.00", "90.00", "89.50"],
        ["class 1", "1,001", "95.00", "89.90", "89.40"],
        ["class 2", "1,002", "95.00", "89.80", "89.30"],
    ]
    assert found.every == [] and found.what == "Accuracy of each class. n: images of it in the test split."


def test_of_many_classes_the_worst_are_shown_and_the_page_has_all(document):
    document["by_label"] = by_label(120)
    document["by_label"][119]["student"] = None  # no test image
    found = classes.each_class(document)
    assert [line[0] for line in found.lines] == [f"class {k}" for k in range(118, 98, -1)] and len(found.every) == 120
    assert "20 classes that the student answers worst, of 120" in found.what
    page, text = html(document), markdown(document)
    assert "<summary>All 120 classes</summary>" in page and "class 5<" in page
    assert "| class 118 |" in text and "| class 5 |" not in text and found.what in text
    assert classes.each_class({**document, "by_label": by_label(99)}).every == []


def test_every_form_has_the_section_and_old_reports_have_none_of_the_files(document):
    document["by_label"] = by_label(3)
    assert "## Each class" in markdown(document) and "<h2>Each class</h2>" in html(document)
    old = [{"label": "a", "n": 3, "teacher": 50.0, "student": None}]
    found = classes.each_class({"by_label": old})
    assert (found.titles, found.lines) == (["class", "n", "teacher %"], [["a", "3", "50.00"]])
    found = classes.each_class({**document, "by_label": by_label(3, teacher=False, files=("gone",))})
    assert found.titles == ["class", "n", "student %"]
    assert classes.each_class({"by_label": None}) is None and "Each class" not in html({**document, "by_label": []})


@pytest.fixture
def warned(document):
    teacher, student, int8 = document["rows"][:3]
    teacher["warnings"] = []
    student["warnings"] = ["is no better than always answering 'a' (95.0 %)", "is right for no image of 'b' (0 of 3)"]
    int8["warnings"] = ["answers every image with 'a', which is right for 95.0 % of them"]
    return document


WARNINGS = [
    "The student is no better than always answering 'a' (95.0 %).",
    "The student is right for no image of 'b' (0 of 3).",
    "Unlike its fp32 parent, student x86-vnni answers every image with 'a', which is right for 95.0 % of them.",
]


def test_warnings_stand_in_every_form(warned):
    assert present.warnings(warned) == WARNINGS
    console = Console(width=200, file=io.StringIO())
    print_report(warned, console)
    assert console.file.getvalue().splitlines()[-3:] == [f"warning: {line}" for line in WARNINGS]
    text, page = markdown(warned), words(html(warned)).replace("&#39;", "'")
    for line in WARNINGS:
        assert f"\n- Warning: {line}\n" in text and f"warning {line}" in page
    assert page.index(WARNINGS[0]) < page.index("Artefacts")
    assert json.loads(json.dumps(warned))["rows"][1]["warnings"][0].startswith("is no better")


def test_a_good_run_has_no_warning(document):
    assert present.warnings(document) == []
    assert "arning" not in markdown(document) and 'class="warnings"' not in html(document)


def test_confusion_changes_by_hand():
    document = {"confusion": {"labels": ["a", "b"], "teacher": [[8, 2], [1, 9]], "student": [[5, 5], [0, 10]]}}
    changes = classes.confusion_changes(document)
    assert changes["change"] == [[-3, 3], [-1, 1]]
    assert [(p["true"], p["predicted"], p["change"], p["said"]) for p in changes["pairs"]] == [
        ("a", "b", 3, "3 more"),
        ("b", "a", -1, "1 fewer"),
    ]
    assert "| b | a | 1 | 0 | 1 fewer |" in markdown(document) and "1 fewer</td>" in html(document)


@pytest.mark.parametrize("confusion", [
    None, {}, {"labels": ["a", "b"], "teacher": None, "student": [[1, 0], [0, 1]]},
    {"labels": ["a"], "teacher": [[1, 0], [0, 1]], "student": [[1, 0], [0, 1]]},
])  # fmt: skip
def test_no_confusion_to_compare(confusion):
    assert classes.confusion_changes({"confusion": confusion}) is None


def test_a_hash_is_whole_on_the_page_and_short_on_a_phone(document):
    page, digest = html(document), document["rows"][0]["sha256"]
    assert f'<code class="hash" title="{digest}">{digest}</code>' in page
    narrow = page[page.index("@media screen and (max-width: 760px)") : page.index("@media print")]
    assert re.search(r"\.hash \{[^}]*max-width: 13ch;[^}]*text-overflow: ellipsis", narrow)
