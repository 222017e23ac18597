"""benchmarks/steps.py: what a training step of each method costs."""

import json

import pytest
import torch

from kdcompress.bench.statistics import reproducible
from kdcompress.errors import UsageError


@pytest.fixture(scope="module")
def steps(benchmark_script):
    return benchmark_script("steps")


def test_two_methods_are_timed_in_turns_and_counted(steps, tmp_path, capsys):
    threads = str(torch.get_num_threads())
    steps.main(["--methods", "reviewkd,dml", "--steps", "2", "--batch", "4", "--threads", threads, "-o", str(tmp_path)])
    document = json.loads((tmp_path / "steps.json").read_text())
    assert {"cpu", "packages"} <= set(document["machine"]) and document["options"]["steps"] == 2
    kd, review, dml = (next(r for r in document["results"] if r["method"] == n) for n in ("kd", "reviewkd", "dml"))
    assert all(len(row["samples_ms"]) == 2 and min(row["samples_ms"]) > 0 for row in (kd, review, dml))
    assert kd["passes"] == review["passes"] == {"teacher": 1, "student": 1, "peer": 0}
    assert dml["passes"] == {"teacher": 0, "student": 1, "peer": 1}
    assert dml["step_macs"] < kd["step_macs"] < review["step_macs"]
    assert kd["extra_parameters"] == 0 < review["extra_parameters"] and review["shipped_parameters"] == 0
    shown = capsys.readouterr().out
    assert shown.startswith("| method |") and shown.strip() == (tmp_path / "steps.md").read_text().strip()
    assert "[" not in shown.splitlines()[2]  # two rounds support no interval


def test_with_enough_rounds_the_ratio_has_an_interval(steps):
    found = steps.compared({"kd": [10.0, 11.0] * 10, "crd": [20.0, 22.0] * 10}, 64)
    ratio = found["crd"]["ratio"]
    assert ratio["median"] == 2 and (ratio["low"], ratio["high"]) == reproducible(2, 2)


def test_each_round_has_one_step_of_each(steps):
    called = []
    found = steps.interleaved({name: lambda name=name: called.append(name) for name in "abc"}, 5)
    rounds = [called[i : i + 3] for i in range(3 * steps.WARMUP, len(called), 3)]
    assert len(rounds) == 5 and all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert all(len(ms) == 5 for ms in found.values())


def test_an_unknown_method_is_named(steps):
    with pytest.raises(UsageError, match="did you mean"):
        steps.main(["--methods", "crdd"])
