"""Two sessions told apart from noise, on samples whose truth is known."""

import copy

import numpy as np
import pytest

from kdcompress.bench.regression import compare
from kdcompress.errors import UsageError


def session(seed, speed=1.0, slower=1.0, n=200, drift=0.1):
    """A session of a baseline at 1 ms and a student at 0.5 ms, on a machine of that ``speed`` whose noise is common to
    both; ``slower`` is what became of the student."""
    rng = np.random.default_rng(seed)
    weather = speed * (1 + drift * np.abs(np.cumsum(rng.normal(0, 0.1, n)))) * rng.lognormal(0, 0.02, n)
    medians = {"teacher": 1.0, "student": 0.5 * slower}
    records = {}
    for name, ms in medians.items():
        samples = (ms * weather * rng.lognormal(0, 0.02, n)).tolist()
        records[name] = {
            "samples_ms": samples, "n": n, "median_ms": float(np.median(samples)), "batch": 1, "failed": None
        }  # fmt: skip
    return {
        "device": "local", "scenario": "single-stream", "threads": 1, "baseline": "teacher", "records": records,
        "machine": {"cpu": "A", "packages": {"numpy": "2"}},
        "artifacts": {name: {"sha256": name} for name in medians},
    }  # fmt: skip


def rows(found):
    return {row["name"]: row for row in found["rows"]}


def test_a_session_against_itself_shows_no_difference():
    found = compare(session(0), session(0))
    assert found["regressions"] == [] and {row["ratio"] for row in found["rows"]} == {1.0}


def test_two_sessions_of_the_same_show_no_difference_although_the_machine_is_slower():
    for seed in range(10):
        found = compare(session(2 * seed), session(2 * seed + 1, speed=1.3))
        assert rows(found)["student"]["verdict"] == "no difference shown", seed


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.5])
def test_ten_per_cent_are_found_whatever_the_machine_does(speed):
    for seed in range(3):
        found = compare(session(2 * seed), session(2 * seed + 1, speed=speed, slower=1.1))
        row = rows(found)["student"]
        assert row["verdict"] == "slower" and row["by"] == "relative to teacher"
        assert row["low"] < row["ratio"] < row["high"] and abs(row["ratio"] - 1.1) < 0.02
        assert "student" in found["regressions"]


def test_what_got_faster_is_no_regression():
    found = compare(session(0), session(1, slower=0.8))
    assert rows(found)["student"]["verdict"] == "faster" and found["regressions"] == []


def test_without_a_common_baseline_latencies_are_compared_as_they_are_with_a_wider_margin():
    old, new = session(0, drift=0), session(1, slower=1.07, drift=0)
    new["artifacts"]["teacher"]["sha256"] = "another"
    row = rows(found := compare(old, new))["student"]
    assert row["by"] == "latency" and row["verdict"] == "no difference shown" and found["baseline"] is None
    assert "teacher is not the same file as before." in found["notes"]
    new = {**session(1, slower=1.5, drift=0), "baseline": None}
    assert rows(compare(old, new))["student"]["verdict"] == "slower"


def test_on_another_cpu_only_the_relative_latency_is_judged():
    new = session(1, speed=3)
    new["machine"] = {"cpu": "B", "packages": {"numpy": "3"}}
    found = compare(session(0), new)
    assert rows(found)["teacher"]["verdict"] == "not comparable"
    assert rows(found)["student"]["verdict"] == "no difference shown"
    assert "The CPU is another one (B, before A)" in found["notes"][0] and "numpy 2 -> 3" in found["notes"][1]


def test_on_a_busy_machine_only_large_changes_are_called_one():
    new = session(1, slower=1.07)
    assert rows(compare(session(0), new))["student"]["verdict"] == "slower"
    new["records"]["student"]["other_cpu_percent"] = 50.0
    found = compare(session(0), new)
    assert rows(found)["student"]["verdict"] == "no difference shown" and "busy" in found["notes"][0]
    busy = {**session(0), "records": {n: {**r, "steal_percent": 3.0} for n, r in session(0)["records"].items()}}
    assert rows(compare(busy, session(1, slower=1.3)))["student"]["verdict"] == "slower"


def test_what_fails_now_is_a_regression_and_what_failed_before_is_not():
    broken = session(1)
    broken["records"]["student"] |= {"failed": "loading: no such file", "n": 0, "samples_ms": [], "median_ms": None}
    found = compare(session(0), broken)
    assert found["regressions"] == ["student"] and rows(found)["student"]["why"] == "loading: no such file"
    assert rows(compare(broken, session(0)))["student"]["verdict"] == "failed before"
    assert compare(broken, session(0))["regressions"] == []


def test_what_is_in_one_session_only_is_named():
    old, new = session(0), session(1)
    new["records"]["more"] = new["records"].pop("student")
    new["artifacts"]["more"] = new["artifacts"].pop("student")
    found = compare(old, new)
    assert [row["name"] for row in found["rows"]] == ["teacher"]
    assert {"Measured before and not now: student.", "Measured now and not before: more."} <= set(found["notes"])


@pytest.mark.parametrize("key, value", [("threads", 2), ("scenario", "offline"), ("device", "browser")])
def test_sessions_of_different_kinds_are_refused(key, value):
    with pytest.raises(UsageError, match=key):
        compare(session(0), {**session(1), key: value})


def test_sessions_without_anything_in_common_are_refused():
    new = copy.deepcopy(session(1))
    new["records"] = {"else": new["records"]["student"]}
    with pytest.raises(UsageError, match="no artefact in common"):
        compare(session(0), new)


def test_ratios_are_per_image():
    old, new = session(0), session(1)
    record = new["records"]["student"]
    record["samples_ms"], record["batch"] = [8 * ms for ms in record["samples_ms"]], 8
    assert rows(compare(old, new))["student"]["verdict"] == "no difference shown"
