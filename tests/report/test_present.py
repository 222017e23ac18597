import pytest

from kdcompress.report import figures, present
from kdcompress.report.gates import in_words, over


@pytest.mark.parametrize("count, text", [
    (None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (98_112, "98.1 kB"), (999_600, "1.00 MB"),
    (2_431_204, "2.43 MB"), (1.5e9, "1.50 GB"),
])  # fmt: skip
def test_size(count, text):
    assert figures.size(count) == text


@pytest.mark.parametrize("value, text", [
    (None, "–"), (0, "0"), (0.31, "0.310"), (0.00123, "0.00123"), (12.5, "12.5"), (123.4, "123"), (1340.2, "1340"),
])  # fmt: skip
def test_significant(value, text):
    assert figures.significant(value) == text


@pytest.mark.parametrize("value, text", [(77_754, "77.8 k"), (11_172_810, "11.2 M"), (999_999, "1 M"), (12, "12")])
def test_count(value, text):
    assert figures.count(value) == text


@pytest.mark.parametrize("seconds, text", [
    (0.0312, "31 ms"), (21.7, "21.7 s"), (431, "7 min 11 s"), (7260, "2 h 1 min"), (None, "–"),
])  # fmt: skip
def test_duration(seconds, text):
    assert figures.duration(seconds) == text


@pytest.mark.parametrize("ratio, text", [
    ({"median": 0.5, "low": 0.4, "high": 0.625, "verdict": "faster"}, "2.0× faster (1.60–2.5)"),
    ({"median": 2.5, "low": 2.4, "high": 2.6, "verdict": "slower"}, "2.5× slower (2.4–2.6)"),
    ({"median": 1.0, "low": 0.9, "high": 1.1, "verdict": "no difference shown"}, "no difference shown"),
    ({"median": None, "low": None, "high": None, "verdict": "no difference shown", "n": 3}, "–"),
    (None, "–"),
])  # fmt: skip
def test_speed(ratio, text):
    assert present.speed(ratio) == text


def test_signs():
    assert figures.fixed(-0.5) == "−0.50" and figures.fixed(-0.001) == "0.00" and figures.fixed(92.1) == "92.10"


def test_points_and_factors_are_words_without_a_sign():
    said = [present.points_off(lost) for lost in (1.364, -0.2, 0.001, -0.001, None)]
    assert said == ["1.36 points below", "0.20 points above", "equal to", "equal to", ""]
    said = [present.comparison(factor, "faster", "slower") for factor in (5.12, 1.006, 1.004, 0.996, 0.5, None)]
    assert said == ["5.1 times faster", "1.01 times faster", "no faster", "no faster", "2.0 times slower", ""]


def test_what_misses_a_limit_never_reads_as_the_limit():
    assert figures.apart(0.504, 0.5) == "0.504" and figures.apart(0.50001, 0.5) == "0.50001"
    assert figures.apart(0.5, 0.5) == "0.50" and figures.apart(0.61, 0.5) == "0.61"
    assert figures.times(1.004) == "1.004" and figures.times(1.0) == "1.00" and figures.times(1.01) == "1.01"
    assert over(0.504, 0.5, points=True) == "0.004 points over" and over(2, 1, points=True) == ("1.00 points over")
    ratio = {"median": 1.003, "low": 1.001, "high": 1.005, "verdict": "slower"}
    assert present.speed(ratio) == "1.003× slower (1.001–1.005)"

    def said(name, value, limit):
        (gate,) = in_words({"gates": [{"name": name, "limit": limit, "value": value, "met": False}]})
        return gate["value"], gate["limit"]

    assert said("student", 91.997, 92) == ("91.997 %", "at least 92 %")
    assert said("latency_ms", 0.30001, 0.3) == ("0.30001 ms", "at most 0.3 ms")
    assert said("budget_size", 100_030, 100_000) == ("100,030 B", "at most 100,000 B")
    assert said("budget_size", 120_000, 100_000) == ("120 kB", "at most 100 kB")
    assert said("budget_drop", -0.25, 1.0) == ("none, 0.25 points gained", "at most 1 points")


def test_a_prediction_that_came_true():
    row = {"name": "a", "predicted_ms": 2.0, "error_percent": -0.3}
    assert present.predictions({"predictions": [row]}) == ["a: the plan predicted 2.00 ms, as measured."]


def test_headline_names_the_fastest_measured_artefact_of_the_student(document):
    head = present.headline(document)
    assert head["ship"]["name"] == "student x86-vnni" and head["against"]["name"] == "teacher fp32"
    assert head["smaller"] == 2_431_204 / 98_112
    assert head["lost"] == pytest.approx(1.36)
    assert head["same_runtime"]


def test_sentences(document):
    first, second = present.sentences(document)
    assert first == "student 77.8 k parameters: 92.16 % (teacher 93.41 %)"
    assert second.startswith("int8 x86-vnni: 92.05 %, 0.31")
    assert second.endswith("times faster and 25 times smaller than the teacher in the same runtime")


def test_a_failed_artefact_never_ships(document):
    document["rows"] = [row for row in document["rows"] if row["status"] == "failed"]
    assert present.headline(document)["ship"] is None
    assert present.sentences(document) == ["No artefact of the student was measured."]


def test_without_a_teacher_the_student_is_compared_with_its_own_fp32(document):
    document["rows"] = [row for row in document["rows"] if row["role"] == "student"]
    assert present.headline(document)["against"]["name"] == "student fp32"
    assert present.sentences(document)[1].endswith("3.2 times smaller than its fp32 in the same runtime")
    document["rows"] = document["rows"][:1]  # alone: nothing to compare with
    assert present.headline(document)["against"] is None
    assert "than" not in present.sentences(document)[1]


def test_without_latency_the_smallest_ships(document):
    for row in document["rows"]:
        row["latency"] = row["ratio"] = None
    assert present.headline(document)["ship"]["name"] == "student x86-vnni"
    assert "ms" not in present.sentences(document)[1]


def test_column_notes_say_a_batch_that_is_not_one(document):
    assert "batch" not in present.column_notes(document)
    document["rows"][1]["latency"]["batch"] = 8
    assert present.column_notes(document).endswith("A query of a file with a fixed batch has 8 images.")


def test_gates(document):
    said = in_words(document)
    assert [gate["verdict"] for gate in said] == ["met", "met", "not met"]
    assert said[1]["value"] == "77,754" and said[1]["limit"] == "at most 80,000"
    assert in_words({"gates": [{"name": "latency_ms", "limit": 5, "value": None, "met": False}]})[0]["value"] == (
        "not measured"
    )


@pytest.mark.parametrize(
    ("precision", "coverage", "text"),
    [
        ("int8", {"conv": {"int8": 9, "fp32": 0}, "gemm": {"int8": 1}}, "int8"),
        ("int8", {"conv": {"int8": 7, "fp32": 2}, "gemm": {"int8": 1}}, "int8 (8 int8, 2 fp32)"),
        ("fp16", {"conv": {"fp16": 0, "fp32": 9}, "gemm": {"fp32": 1}, "leftover": 3}, "fp16 (10 fp32)"),
        ("fp32", None, "fp32"),
    ],
)
def test_a_precision_says_what_was_built_where_that_is_something_else(precision, coverage, text):
    assert present.cells({"precision": precision, "coverage": coverage})["precision"] == text
