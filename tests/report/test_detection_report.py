"""The report of a detection run, from arrays made by hand."""

import io
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from rich.console import Console

from kdcompress.report import charts, figures, pictures, present
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown
from kdcompress.report.terminal import print_report
from kdcompress.report.write import load_report, write_report
from kdcompress.tasks import tasks

TASK = tasks["detection"]
LABELS = ("bag", "shirt")
PLACES = [[4, 4, 24, 24], [30, 30, 60, 60]]


def answers(*images):
    """(place, label, score) for each detection of each image, as steps keep them."""
    made = np.zeros((len(images), 100, 6), np.float32)
    for image, rows in zip(made, images):
        for row, (place, label, score) in zip(image, rows):
            row[:] = [*PLACES[place], label, score]
    return made


def truth():
    """A bag in the first place of each of four images, and a shirt in the second of all but the last."""
    made = np.zeros((4, 2, 6), np.float32)
    made[:, 0] = [*PLACES[0], 0, 1]
    made[:3, 1] = [*PLACES[1], 1, 1]
    return made


BOTH = [(0, 0, 0.9), (1, 1, 0.8)]
FILES = {
    "teacher fp32": answers(BOTH, BOTH, BOTH, BOTH[:1]),
    "student fp32": answers(BOTH, BOTH[:1], [(0, 1, 0.6)], BOTH[:1]),
    "student x86-vnni": answers(BOTH, BOTH[:1], BOTH, [(1, 1, 0.5)]),
}


@pytest.fixture(scope="module")
def judged():
    """What the task says of these answers, as a document has it."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 64, 64, 3), np.uint8)
    curves = {name: TASK.curve(each, truth(), LABELS) for name, each in FILES.items()}
    tables = {name: TASK.confusion(each, truth(), LABELS) for name, each in FILES.items()}
    teacher, student, int8 = (TASK.by_label(each, truth(), LABELS) for each in FILES.values())
    some, other = curves["teacher fp32"], tables["teacher fp32"]
    return {
        "metric": vars(TASK.metric),
        "curves": {
            **{key: getattr(some, key) for key in ("title", "x", "y", "note")},
            "lines": [{"name": name, "points": curve.points} for name, curve in curves.items()],
        },
        "confusion": {
            **{key: getattr(other, key) for key in ("labels", "of", "note")},
            "teacher": other.counts,
            "student": tables["student fp32"].counts,
        },
        "by_label": [
            {**mine, "teacher": one["score"], "student": mine["score"], "files": {"student x86-vnni": third["score"]}}
            for one, mine, third in zip(teacher, student, int8)
        ],
        "pictures": asdict(TASK.pictures(images, truth(), FILES, LABELS)),
        "details": {name: TASK.details((each,), truth()) for name, each in FILES.items()},
    }


@pytest.fixture
def detection(document, judged):
    rows = [row for row in document["rows"] if row["name"] in FILES]
    for row, ms in zip(rows, (0.5, 0.4, 0.25), strict=True):
        row.update(details=judged["details"][row["name"]], answer_ms=ms)
    return json.loads(json.dumps({**document, **judged, "rows": rows}))


def words(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def printed(document, width=160):
    console = Console(width=width, file=io.StringIO())
    print_report(document, console)
    return console.file.getvalue()


def test_a_name_keeps_its_capitals(detection):
    assert [figures.capital(text) for text in ("box AP", "accuracy", "mAP", "")] == ["Box AP", "Accuracy", "MAP", ""]
    for text in (words(html(detection)), markdown(detection)):
        assert "Box AP" in text and "Box ap" not in text
    assert "Box AP against latency" in words(html(detection))


def test_pictures_are_inside_the_page(detection):
    page = html(detection)
    addresses = re.findall(r'<img src="([^"]*)"', page)
    shown = detection["pictures"]["shown"]
    assert len(addresses) == 4 * len(shown) == 12
    assert all(re.fullmatch(r"data:image/(webp|png);base64,[\w+/=]+", address) for address in addresses)
    assert len(page) < 2_000_000
    said = words(page)
    for line in ("truth : 1 bag, 1 shirt", "student x86-vnni : 1 shirt 0 of 1 found, 1 wrong", "Most lost",
                 "teacher fp32 finds objects that neither student fp32 nor student x86-vnni does."):  # fmt: skip
        assert line in said, line
    assert 'alt="truth: 1 bag, 1 shirt"' in page
    assert all(f"drawn-{kind}" in page for kind in ("truth", "right", "wrong", "missed"))
    assert "<img" not in markdown(detection) and "base64" not in printed(detection)


@pytest.mark.parametrize(
    "address",
    [
        *("http://a.example/x.png", "data:text/html;base64,AAAA", "", None, 3),
        *('data:image/png;base64,AA" onload="x', "data:image/svg+xml;base64,AA=="),
    ],
)
def test_pictures_from_elsewhere_are_left_out(detection, address):
    first, *others = detection["pictures"]["shown"]
    first["panels"][0]["image"] = address
    page = html(detection)
    assert page.count("<img") == 4 * len(others) and "a.example" not in page and "onload" not in page


@pytest.mark.parametrize("part", ["pictures", "curves", "by_label", "confusion"])
def test_any_part_may_be_missing(detection, part):
    for without in ({**detection, part: None}, {k: v for k, v in detection.items() if k != part}):
        assert html(without) and markdown(without) and printed(without)
    assert pictures.groups({"pictures": {"shown": [{"panels": None}, {}]}}) == []


def test_curves_by_hand(detection):
    """Of the teacher, which finds all, precision is 1 at all recalls; the student finds 3 of 4 bags and 1 of 3 shirts,
    whose best is right: 1 up to 3/4 and up to 1/3."""
    lines = {line["name"]: dict(line["points"]) for line in detection["curves"]["lines"]}
    assert set(lines["teacher fp32"].values()) == {1.0}
    student = lines["student fp32"]
    assert (student[0.0], student[0.33], student[0.34], student[0.75], student[0.76]) == (1, 1, 0.5, 0.5, 0)
    page = html(detection)
    drawn = page[page.index('aria-label="Precision and recall"') :]
    drawn = drawn[: drawn.index("</svg>")]
    assert drawn.count("<polyline") == 3 and 'class="line s2 dashed"' in drawn
    assert f'points="{charts.LEFT}.0,{charts.TOP}.0 ' in drawn  # recall 0, precision 1


def test_curves_that_cannot_be_drawn():
    assert charts.curves([], "x", "y", "t") is None
    assert charts.curves([("a", [], "s0")], "x", "y", "t") is None
    assert "polyline" in charts.curves([("a", [(0, 1), (None, 0.5), (1, None)], "s0")], "x", "y", "t")
    assert TASK.curve(answers([]), np.zeros((1, 2, 6), np.float32), LABELS) is None


def test_confusion_has_a_background(detection):
    """The student: 3 bags found, one called a shirt; 1 shirt found, 2 missed."""
    assert detection["confusion"]["labels"] == ["bag", "shirt", "background"]
    assert detection["confusion"]["teacher"] == [[4, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert detection["confusion"]["student"] == [[3, 1, 0], [0, 1, 2], [0, 0, 0]]
    said = words(html(detection))
    assert "Student minus teacher, objects of the test split" in said and "shirt background 0 2 2 more" in said
    assert "true shirt, predicted background: 2 more (worse)" in said
    assert "| shirt | background | 0 | 2 | 2 more |" in markdown(detection)
    assert "an object that is not found" in said and "an object that is not found" in markdown(detection)
    alone = TASK.confusion(answers([(1, 0, 0.9)]), truth()[3:], LABELS)
    assert alone.counts == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    unsure = TASK.confusion(answers([(0, 0, 0.29)]), truth()[3:], LABELS)
    assert unsure.counts == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_sizes_of_objects_have_a_table(detection):
    """All are smaller than 32 x 32 pixels."""
    titles, lines = present.parts(detection)
    assert titles == ["artefact", "AP, small objects %"]
    assert lines[0] == ["teacher fp32", "100.00"] and len(lines) == 3
    assert "Size of objects" in words(html(detection)) and "## Size of objects" in markdown(detection)
    detection["rows"][1]["details"]["AP, large objects"] = 3.0
    titles, lines = present.parts(detection)
    assert titles[-1] == "AP, large objects %" and [line[-1] for line in lines] == ["–", "3.00", "–"]


def test_what_is_counted_of_a_class_are_objects(detection):
    said = words(html(detection))
    assert "AP of each class. n: objects of it in the test split." in said
    assert "bag 4 100.00" in said and "shirt 3 100.00" in said


def test_latency_is_said_with_suppression(detection):
    teacher, student, int8 = detection["rows"]
    teacher["latency"]["median_ms"], student["latency"]["median_ms"], int8["latency"]["median_ms"] = 2.0, 0.73, 0.31
    lines = [
        "teacher fp32: network 2.00 ms, with suppression 2.50 ms",
        "student fp32: network 0.730 ms, with suppression 1.13 ms",
        "student x86-vnni: network 0.310 ms, with suppression 0.560 ms",
    ]
    assert present.answering(detection) == lines
    for text in (words(html(detection)), markdown(detection)):
        assert all(line in text for line in lines) and "without suppression" in text
    assert "0.310 ms, 0.560 ms with suppression," in printed(detection)
    said = words(html(detection)).replace("&nbsp;", " ")
    assert "with suppression 0.560 ms, the teacher's 2.50 ms" in said
    int8["latency"]["batch"] = 4
    assert present.whole_ms(detection, int8) == pytest.approx(0.31 + 4 * 0.25)


def test_what_was_timed_on_two_machines_is_not_added(detection):
    elsewhere = {"name": "ssh:board", "machine": {"cpu": "ARM"}}
    assert present.answering({**detection, "device": elsewhere}) == []
    assert present.answering({**detection, "rows": [{**row, "latency": None} for row in detection["rows"]]}) == []
    assert present.answering({**detection, "rows": [{**row, "answer_ms": None} for row in detection["rows"]]}) == []


def test_a_classifier_says_nothing_of_all_this(document):
    page, text = html(document), markdown(document)
    for words_of_detection in ("suppression", "background", "Size of objects", "Pictures", "recall", "<img"):
        assert words_of_detection not in page.split("</style>")[1] and words_of_detection not in text


def test_agreement_is_explained_as_the_task_counts_it(document, detection):
    assert "share of the test images that get the same answer" in present.column_notes(document)
    assert "share of the detections above 0.3" in present.column_notes(detection)


def test_the_report_is_written_and_read(detection, tmp_path):
    load = load_report(write_report(detection, tmp_path)[0])
    assert load["pictures"] == detection["pictures"]
    assert html(load) == (tmp_path / "report.html").read_text()


def test_names_of_others_are_harmless(detection):
    evil = '<script>alert("x")</script>" onload="x'
    for picture in detection["pictures"]["shown"]:
        picture.update(title=evil, what=evil)
        picture["panels"][1].update(name=evil, said=evil, verdict=evil)
    detection["pictures"].update(key={evil: evil}, note=evil)
    detection["curves"].update(title=evil, x=evil, y=evil, note=evil)
    detection["curves"]["lines"][0]["name"] = evil
    detection["confusion"].update(of=evil, note=evil)
    detection["metric"].update(parts_title=evil, parts_note=evil, after=evil, counted=evil, agreement=evil)
    page = html(detection)
    assert "<script" not in page and 'onload="' not in page
    tables = [line for line in markdown(detection).splitlines() if line.startswith("|")]
    assert "<script" not in markdown(detection).split("```")[0] and tables
