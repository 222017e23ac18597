from kdcompress.bench.advice import advice
from kdcompress.bench.record import Record


def test_advice_names_what_is_wrong():
    quiet = {"load_average": 0.0, "threads": 2, "governor": "not exposed", "mhz": 3000}
    fine = dict(n=100, median_ms=1.0, cv=0.02, warmup_stable=True, first_call_ms=1.5)
    good = Record("good", "rapid", 1, samples_ms=[1.0] * 100, steal_percent=0.1, other_cpu_percent=1.0, **fine)
    assert advice({"good": good}, quiet, quiet) == []
    bad = Record("bad", "rapid", 1, samples_ms=[2.0] * 100, steal_percent=3.0, other_cpu_percent=40.0,
                 capped="ended at 20 of 64 queries",
                 **{**fine, "cv": 0.5, "first_call_ms": 500.0, "warmup_stable": False})  # fmt: skip
    said = " ".join(advice(
        {"good": good, "bad": bad, "broken": Record("broken", "rapid", 1, failed="loading: OSError")},
        {**quiet, "governor": "powersave"}, {**quiet, "mhz": 2000}, parents={"bad": "good", "broken": "good"},
    ))  # fmt: skip
    for part in (
        "bad (50 %)",
        "20 of 64",
        "warm-up",
        "first call takes 500 ms",
        "hypervisor took 3.0 %",
        "Other processes used 40 %",
        "'powersave'",
        "2000 MHz",
        "slower than the fp32",
    ):
        assert part in said, part


def test_advice_on_threads_drift_heat_and_the_host():
    here = {"cores": 2, "affinity": [0, 1], "cgroup_cpus": 1.5, "throttle_count": 4}
    busy = Record("busy", "rapid", 1, n=200, median_ms=1.0, cores_used=1.9, samples_ms=[1.0] * 100 + [1.3] * 100)
    tiny = Record("tiny", "rapid", 1, n=9, median_ms=0.005, overhead_us=0.1, cores_used=1.0, warmup_stable=True)
    said = advice({"busy": busy, "tiny": tiny}, here, {**here, "throttle_count": 7}, threads=1)
    found = " ".join(said)
    assert "busy used 1.9 cores, but was asked to use 1" in found and "tiny used" not in found
    assert "busy (1.30)" in found and "throttled 3 times because of heat" in found
    assert "of which timing alone is 2 %" in found
    assert "2 threads share 1.5 CPUs of the container's quota" in " ".join(advice({}, here, here, threads=2))
    assert "4 threads share 2 physical cores" in " ".join(advice({}, here, here, threads=4))
    assert advice({}, here, here, threads=1) == []


def test_a_variation_is_told_of_where_it_reads_as_more_than_10_percent():
    def told(cv):
        record = Record("a", "rapid", 1, n=100, median_ms=1.0, cv=cv, warmup_stable=True, samples_ms=[1.0] * 100)
        return [line.partition(". ")[0] for line in advice({"a": record}, {}, {})]

    assert told(0.1) == told(0.104) == told(None) == []
    assert told(0.106) == ["Latencies vary by more than 10 %: a (11 %)"]
