"""benchmarks/bench.py: our estimates against MLPerf LoadGen's, the slowdown injected, what is said of sessions."""

import time
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(benchmark_script):
    return benchmark_script("bench")


@pytest.mark.parametrize("queries, p99", [(100, False), (700, True)])
def test_loadgen_and_we_agree_on_the_same_samples(script, queries, p99):
    pytest.importorskip("mlperf_loadgen")
    rng = np.random.default_rng(0)
    before = set(Path.cwd().iterdir())
    found = script.loadgen(lambda x: time.sleep(rng.exponential(1e-4)), [np.zeros(1)] * 16, queries, 0.001)
    assert found["valid"] and found["n"] >= queries
    estimates = found["estimates"]
    assert estimates["p90"]["loadgen"] == estimates["p90"]["ours"] > 0
    assert estimates["p99"]["loadgen"] == estimates["p99"]["ours"] and (estimates["p99"]["ours"] is not None) >= p99
    assert found["discarded"]["loadgen"] == found["discarded"]["ours"] > 0
    assert found["loadgen_over_ours"] >= 1 and found["loadgen_adds_us"] > 0
    assert set(Path.cwd().iterdir()) == before  # its logs are elsewhere


def test_a_slowed_runner_takes_ten_per_cent_longer(script, monkeypatch):
    from test_timing import CLOCK, IMAGES, SPEC, Busy

    from kdcompress.bench import timing
    from kdcompress.bench.timing import timed

    for module in (script, timing):
        monkeypatch.setattr(module, "perf_counter_ns", CLOCK.read)
    plain, slowed = Busy(0.5), script.Slowed(Busy(0.5))
    with plain, slowed:
        x = SPEC.prepare(IMAGES[:1])
        taken = [(timed(plain.infer, x), timed(slowed.infer, x)) for _ in range(50)]
    assert np.median([b / a for a, b in taken]) == pytest.approx(1.1, abs=0.03)


def test_the_harness_is_timed_in_turns_with_a_model(script, tmp_path, monkeypatch):
    from test_cold import tiny

    monkeypatch.setitem(script.timing.EFFORTS, "rapid", (64, 0.2))
    found = script.in_turns(tiny(tmp_path / "tiny.onnx").path)
    assert 0 < found["median"] < 5 and found["n"] >= 64


def test_shares_have_wilsons_interval(script):
    assert script.share([]) == {"k": 0, "n": 0}
    assert script.share([False] * 50) == {"k": 0, "n": 50, "low": 0.0, "high": 0.0713}
    assert script.share([True] * 5 + [False] * 5) == {"k": 5, "n": 10, "low": 0.2366, "high": 0.7634}


def test_sessions_are_judged(script):
    from test_regression import session

    def document(seed, slower):
        made = session(seed, slower=slower)
        names = dict(zip(("teacher", "student"), (script.FILES[0], script.COPY)))
        for part in ("records", "artifacts"):
            made[part] = {names[name]: value for name, value in made[part].items()}
            made[part][script.INT8] = made[part][script.COPY]
        made["baseline"] = script.FILES[0]
        for record in made["records"].values():
            record["other_cpu_percent"] = 1.0
        ratio = {"median": slower, "low": slower - 0.02, "high": slower + 0.02, "n": 200}
        ratio["verdict"] = "slower" if slower > 1.02 else "no difference shown"
        made["ratios"] = dict.fromkeys((script.COPY, script.INT8), ratio)
        return made

    same, slow = [document(i, 1.0) for i in range(4)], [document(9 + i, 1.1) for i in range(2)]
    found = script.judged(same, slow)
    assert (found["false_positives"]["k"], found["false_positives"]["n"]) == (0, 4)
    assert (found["slowdown_found"]["k"], found["slowdown_in_interval"]["k"]) == (2, 2)
    assert (found["same_command_twice_overlaps"]["k"], found["compare_slowdown_found"]["k"]) == (3, 2)
    assert found["compare_false_relative"] == script.share([False] * 6)
    assert script.judged([document(0, 1.1)], [])["false_positives"]["k"] == 1
