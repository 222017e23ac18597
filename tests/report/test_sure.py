"""Intervals of scores and of what files lose, in every form of the report."""

import io
import json
import re

import pytest
from rich.console import Console

from kdcompress.intervals import Interval
from kdcompress.report import present, sure
from kdcompress.report.gates import in_words
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown
from kdcompress.report.rows import drop_record
from kdcompress.report.terminal import print_report
from kdcompress.report.write import load_report, write_report

WORSE, NONE, BETTER = Interval(1.36, 0.26, 2.56, 525), Interval(0.11, -0.39, 0.71, 525), Interval(-0.6, -0.9, -0.3, 525)


@pytest.fixture
def sure_document(document):
    for row in document["rows"]:
        if row["score"] is not None:
            row |= {"images": 525, "score_low": row["score"] - 2.7, "score_high": row["score"] + 2.1}
            row["drop_to_teacher"] = drop_record(WORSE) if row["role"] == "student" else None
            if row["target"]:
                row |= {"drop": NONE.value, "drop_to_parent": drop_record(NONE) | {"allowed": 0.5}}
    gate = {"name": "student", "limit": 92, "value": 92.16, "met": True}
    document["gates"].append(gate | {"interval": {"low": 89.46, "high": 94.26, "images": 525}})
    return document


def printed(document, width):
    console = Console(width=width, file=io.StringIO())
    print_report(document, console)
    return console.file.getvalue()


def words(text):
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_intervals_by_hand():
    assert sure.between(91.5, 92.564) == "91.50–92.56" and sure.between(-0.391, 0.7) == "−0.39 to 0.70"
    assert sure.between(-0.001, 0.7) == "0.00–0.70" and sure.between(-2, -1) == "−2.00 to −1.00"
    worse, none, better = map(drop_record, (WORSE, NONE, BETTER))
    assert [each["verdict"] for each in (worse, none, better)] == ["worse", "no difference shown", "better"]
    assert sure.drop(1.0, None) == "1.00" and sure.drop(None, worse) == "1.36 (0.26–2.56)"
    assert sure.drop(None, none) == "0.11 (−0.39 to 0.71: no difference shown)"
    assert sure.against(worse, "the teacher") == "1.36 points below the teacher (0.26–2.56)"
    assert sure.against(better, "the teacher") == "0.60 points above the teacher (0.30–0.90)"
    assert sure.against(none, "it") == "no difference shown to it (drop 0.11, −0.39 to 0.71)"
    assert [sure.beside(each) for each in (worse, better, none, None)] == [
        *(" (0.26–2.56)", " (0.30–0.90)", " (drop −0.39 to 0.71: no difference shown)", ""),
    ]


def test_what_images_cannot_tell_apart():
    assert sure.undecided(WORSE, 0.2) == ""
    assert sure.undecided(NONE, 0.5) == "525 test images cannot tell 0.11 from 0.5, about 1,300 would"
    assert sure.undecided(NONE, 0.1101, "validation") == "525 validation images cannot tell 0.1100 from 0.1101"


@pytest.mark.parametrize("width", [40, 50, 60, 80, 100, 120, 160, 180, 220])
def test_a_terminal_of_any_width_says_all(sure_document, width):
    text = printed(sure_document, width)
    assert width < 50 or max(map(len, text.splitlines())) <= width
    said = words(text)
    for part in ("89.35–94.15", "−0.39 to 0.71", "no difference shown", "0.26–2.56", "about 1,300 would",
                 "95 % interval 89.46–94.26", "about 150,000 would"):  # fmt: skip
        assert part in said, part
    assert ("to the teacher" in text) == (width >= 180)


def test_the_table_of_a_terminal_is_as_wide_as_without_intervals(sure_document, document):
    bare = [{**row, "score_low": None, "drop_to_parent": None, "drop_to_teacher": None} for row in document["rows"]]
    table = printed({"rows": bare}, 50).split("student arm64 built")[0]
    assert table.splitlines()[:12] == printed({"rows": sure_document["rows"]}, 50).splitlines()[:12]


def test_markdown_and_html_have_them_in_the_table(sure_document):
    line = "| measured | 98.1 kB | 92.05 (89.35–94.15) | 0.11 (−0.39 to 0.71: no difference shown)"
    text, page = markdown(sure_document), html(sure_document)
    assert f"{line} | 1.36 (0.26–2.56) |" in text
    assert 'data-name="drop" class="number sure"><span>0.11 <span class="interval">−0.39 to 0.71: no diff' in page
    for form in (text, words(page)):
        assert "student x86-vnni: 525 test images cannot tell 0.11 from 0.5, about 1,300 would" in form
        assert "student x86-avx2: 525" not in form  # it has failed, and its reason says so
        assert "525 test images cannot tell 92.16 from 92, about 150,000 would" in form
        assert "hold the 95 % interval" in form
    assert "1.36 points below the teacher&#39;s 93.41 % (0.26–2.56)" in words(page).replace("&nbsp;", " ").replace(
        "'", "&#39;"
    )
    assert present.sentences(sure_document)[2] == (
        "On 525 test images int8 x86-vnni has: 1.36 points below the teacher (0.26–2.56); no difference shown to its "
        "fp32 parent (drop 0.11, −0.39 to 0.71)"
    )


def test_a_report_from_before_says_nothing_of_them(document, tmp_path):
    path = write_report(document, tmp_path)[0]
    old = json.loads(path.read_text())
    new = {"images", "score_low", "score_high", "drop_to_parent", "drop_to_teacher"}
    old["rows"] = [{key: value for key, value in row.items() if key not in new} for row in old["rows"]]
    path.write_text(json.dumps(old))
    found = load_report(path)
    for text in (markdown(found), html(found).split("</style>")[1], printed(found, 100)):
        assert "cannot tell" not in text and "to the teacher" not in text and "hold the 95 %" not in text
    assert sure.lines(found) == sure.doubts(found) == [] and sure.card(found["rows"][0]) == ""


def test_gates_say_when_the_test_images_are_too_few(sure_document):
    gate = in_words(sure_document)[-1]
    assert gate["value"] == "92.16 %, 95 % interval 89.46–94.26" and gate["verdict"] == "met"
    assert gate["doubt"] == "525 test images cannot tell 92.16 from 92, about 150,000 would"
    assert [each["doubt"] for each in in_words(sure_document)[:-1]] == [""] * 3


def test_rungs_of_the_ladder_have_them(document):
    rung = {
        "rung": "calibration",
        "what": "minmax",
        "seconds": 1.0,
        "score": 91.0,
        "drop": 0.11,
        "bytes": 9,
        "why": None,
    }
    document["rows"][2]["ladder"] = [rung | {"kept": True, "lost": drop_record(NONE)}, rung | {"kept": False}]
    ((_, lines),) = present.ladders(document)  # the second is from before there were intervals
    assert [line[3] for line in lines] == ["0.11 (−0.39 to 0.71: no difference shown)", "0.11"]


def test_a_model_card_has_them(sure_document):
    said = sure.card(sure_document["rows"][2])
    assert said.startswith("95 % interval: 89.35–94.15 %. 1.36 points below the teacher (0.26–2.56); no difference")
    assert said.endswith("−0.39 to 0.71). Other test images, as many as these, give a figure in the interval.")
