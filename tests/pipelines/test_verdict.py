"""What may ship and what leads."""

import pytest

from kdcompress.errors import KDCompressError
from kdcompress.intervals import Interval
from kdcompress.pipelines.verdict import budgets, check_budgets, failures, gates, judge, margin, predictions
from kdcompress.recipe import validate_recipe
from kdcompress.report.gates import in_words as gate_texts
from kdcompress.report.present import sentences
from kdcompress.report.rows import Row, drop_record

EVEN = [1.0, 1.1, 0.9, 1.05] * 20


def row(name, scale=None, status="measured", role="student"):
    latency = None
    if scale:
        samples = [scale * value for value in EVEN]
        middle = scale * 1.025
        latency = {"name": name, "effort": "rapid", "batch": 1, "n": 80, "median_ms": middle, "samples_ms": samples}
    return Row(name=name, role=role, format="onnx", precision="int8", status=status, latency=latency)


def test_the_margin_is_that_of_the_fastest_that_may_ship_to_the_next():
    rows = [
        row("teacher", 0.1, role="teacher"),
        row("a", 2.0),
        row("wrong", 0.2, status="failed"),
        row("b", 1.0),
        row("c"),
    ]
    found = margin(rows)
    assert (found["first"], found["second"], found["n"]) == ("b", "a", 80)
    assert found["median"] == pytest.approx(2.0) and found["verdict"] == "slower"  # the next one is
    assert sentences({"rows": [r.to_json() for r in rows], "margin": found})[-1].startswith("b is 2.0 times faster")


def test_a_tie_is_called_one():
    found = margin([row("a", 1.0), row("b", 1.001)])
    assert found["verdict"] == "no difference shown"
    assert "choose by size" in sentences({"rows": [row("a", 1.0).to_json()], "margin": found})[-1]


def test_one_alone_leads_nobody():
    assert margin([row("a", 1.0), row("b")]) is None


def test_too_few_queries_are_no_latency():
    """A file that was ended after a few: no median, so neither the fastest nor a gate's value."""
    slow = row("slow", 1.0)
    slow.latency |= {"n": 4, "median_ms": None, "samples_ms": [900.0] * 4}
    rows = [row("student-fp32", 2.0), slow, row("b", 3.0)]
    assert margin(rows)["first"] == "student-fp32"
    limits = validate_recipe({"name": "x", "data": {"source": "fashion-mnist"}, "student": {"model": "resnet8"},
                              "method": "none", "gates": {"latency_ms": 2.5}})  # fmt: skip
    assert [(gate["value"], gate["met"]) for gate in gates(limits, rows)] == [(2.05, True)]
    assert not gates(limits, [row("student-fp32"), slow])[0]["met"]


def test_a_file_that_stops_while_it_is_timed_does_not_ship():
    stopped = row("a", 1.0)
    stopped.latency["failed"] = "query 3: RuntimeError: out of memory"
    judge(stopped, max_drop=1.0)
    assert stopped.status == "failed" and "query 3: RuntimeError: out of memory" in stopped.why


def test_what_is_allowed_is_not_missed_by_a_last_bit_nor_told_as_the_limit():
    lossy = row("a", 1.0)
    lossy.drop = 0.504
    judge(lossy, max_drop=0.5)
    assert lossy.why == "it loses 0.504 points to its fp32 parent; 0.5 are allowed"
    held = rows(score=89.91)
    held[0].score = 90.01
    assert held[0].score - held[2].score > 0.1  # by 9e-15
    (gate,) = budgets(recipe(drop=0.1), held)
    assert gate["met"] and gate["value"] == 0.1


def test_a_file_that_answers_otherwise_on_the_device_does_not_ship():
    there = row("a", 1.0)
    there.device_parity = {"passed": False, "why": "logits differ by 3.1"}
    judge(there, max_drop=1.0)
    assert there.status == "failed" and there.why.endswith("differ from those here: logits differ by 3.1")


@pytest.mark.parametrize(("targets", "count"), [(["x86-vnni"], 1), (["auto"], 0)])
def test_what_nobody_named_may_fail(targets, count):
    rows = [row("a", 1.0), row("b", 2.0), row("c", 3.0, status="failed")]
    document = {
        "rows": [r.to_json() for r in rows],
        "gates": [],
        "margin": margin(rows),
        "recipe": {"export": {"targets": targets}},
    }
    assert len(failures(document)) == count


CANDIDATES = [
    {
        "student": {"model": name},
        "macs": size,
        "parameters": size,
        "latency_ms": {"onnx-fp16": ms},
        "bytes": {"onnx-fp16": size},
    }
    for name, size, ms in (("resnet20", 900, 3.0), ("resnet14", 600, 2.0), ("resnet8", 300, 1.0))
]


def recipe(student="resnet14", candidates=CANDIDATES, **budgets):
    return validate_recipe(
        {
            "name": "x",
            "data": {"source": "fashion-mnist"},
            "teacher": {"model": "vgg8", "train": {}},
            "student": {"model": student},
            "export": {"targets": ["onnx-fp16", "browser-wasm"]},
            "budgets": {**budgets, "candidates": candidates},
        }
    )


def rows(ms=2.2, size=650, score=90.0, status="measured"):
    found = [
        row("teacher-fp32", 9.0, role="teacher"),
        row("student-fp32", 4.0),
        row("student-onnx-fp16", ms / 1.025, status),
    ]
    found[0].score, found[2].score, found[2].bytes, found[2].target = 92.0, score, size, "onnx-fp16"
    return found


def test_budgets_are_gates_with_what_they_are_missed_by_and_what_is_next():
    held = rows()
    found = {gate["name"]: gate for gate in budgets(recipe(latency="2ms", size="1kB", drop=1.0), held)}
    assert found["budget_size"]["met"] and not found["budget_latency"]["met"] and not found["budget_drop"]["met"]
    assert (
        found["budget_latency"]["over"] == "10 % over" and "student.model=resnet8," in found["budget_latency"]["next"]
    )
    assert (
        found["budget_drop"]["over"] == "1.00 points over" and "student.model=resnet20," in found["budget_drop"]["next"]
    )
    assert held[2].why == "over its budget: latency 10 % over"
    said = [gate["value"] for gate in gate_texts({"gates": list(found.values())})]
    assert said == ["2.2 ms, 10 % over", "650 B", "2 points, 1.00 points over"]


def test_the_next_candidate_fits_by_what_this_one_turned_out_to_be():
    slow = rows(ms=5.0)  # 2.5 times what was predicted: so would resnet8 be, with 2.5 ms
    (gate,) = budgets(recipe(latency="2ms"), slow)
    assert "no candidate of the plan has less latency" in gate["next"]
    (gate,) = budgets(recipe(latency="2.6ms"), slow)
    assert "student.model=resnet8," in gate["next"]
    (gate,) = budgets(recipe("resnet20", drop=0.5), rows())
    assert "train longer" in gate["next"]
    (gate,) = budgets(recipe(latency="2ms", candidates=[]), rows())
    assert "kdcompress plan" in gate["next"]


def test_a_failed_artefact_meets_no_budget():
    (gate,) = budgets(recipe(size="1MB"), rows(status="failed"))
    assert not gate["met"] and gate["value"] is None


def test_a_latency_that_cannot_be_measured_here_is_refused_at_once():
    with pytest.raises(KDCompressError):
        check_budgets(recipe(latency="2ms", target="browser-wasm"))
    check_budgets(recipe(size="2MB", target="browser-wasm"))


def test_predictions_stand_beside_what_was_measured():
    (found,) = predictions(recipe(latency="2ms"), rows())
    assert (found["name"], found["predicted_ms"], found["measured_ms"]) == (
        "student-onnx-fp16",
        2.0,
        pytest.approx(2.2),
    )
    assert found["error_percent"] == pytest.approx(-9.09, abs=0.01)
    assert predictions(recipe("resnet32"), rows()) == []
    assert "9 % less than measured" in sentences({"rows": [r.to_json() for r in rows()], "predictions": [found]})[-1]


def test_a_drop_says_whether_the_images_decide():
    small, large, unknown = row("a"), row("b"), row("c")
    for each in (small, large, unknown):
        each.drop = 0.57
    small.drop_to_parent = drop_record(Interval(0.57, 0.10, 1.10, 525))
    large.drop_to_parent = drop_record(Interval(0.57, 0.51, 0.63, 100_000))
    for each in (small, large, unknown):
        judge(each, max_drop=0.5)
    assert [each.status for each in (small, large, unknown)] == ["failed"] * 3
    asked = "to its fp32 parent; 0.5 are allowed"
    assert unknown.why == f"it loses 0.57 points {asked}"
    assert large.why == f"it loses 0.57 points (0.51–0.63) {asked}"
    doubt = "525 test images cannot tell 0.57 from 0.5, about 24,000 would"
    assert small.why == f"it loses 0.57 points (0.10–1.10) {asked}: {doubt}"
    assert small.drop_to_parent["allowed"] == 0.5


def test_gates_and_budgets_have_the_interval_of_their_figure():
    asked = {"name": "x", "data": {"source": "fashion-mnist"}, "student": {"model": "resnet8"}, "method": "none",
             "gates": {"student": 92, "latency_ms": 50}}  # fmt: skip
    student = row("student-fp32", 1.0)
    student.score = 91.0
    assert "interval" not in gates(validate_recipe(asked), [student])[0]
    student.images, student.score_low, student.score_high = 525, 88.3, 93.2
    found = gates(validate_recipe(asked), [student])
    assert found[0]["interval"] == {"low": 88.3, "high": 93.2, "images": 525} and "interval" not in found[1]
    assert not found[0]["met"]  # on its figure, as ever
    (said,) = failures({"rows": [], "gates": found, "margin": None, "recipe": {"export": {"targets": []}}})
    assert said == (
        "gate student: student's accuracy 91 %, 95 % interval 88.30–93.20 (at least 92 %): 525 test images cannot tell "
        "91.00 from 92, about 2,600 would"
    )
    files = rows()
    files[2].drop_to_teacher = drop_record(Interval(2.0, 0.5, 3.5, 200))
    (gate,) = budgets(recipe(drop=1.0), files)
    assert gate["interval"] == {"low": 0.5, "high": 3.5, "images": 200} and not gate["met"]
    assert gate_texts({"gates": [gate]})[0]["doubt"] == "200 test images cannot tell 2.00 from 1, about 450 would"
