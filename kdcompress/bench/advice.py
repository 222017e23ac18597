"""What about a measurement should worry its reader, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.bench.record import Record, paired_ratio


def advice(
    records: Mapping[str, Record],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    parents: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> list[str]:
    """Sentences on what weakens these measurements, or should be looked at, and what to do about it.

    ``before`` and ``after`` are ``machine()`` around the measurement; ``parents`` maps a quantised subject to
    the fp32 subject it was made from; ``threads`` is how many each was asked to use, where it was asked.
    """
    said = _threads(records, before, threads)
    good = {name: record for name, record in records.items() if not record.failed}
    variations = {name: round(100 * (record.cv or 0)) for name, record in good.items()}  # as it is said
    shaky = [f"{name} ({percent} %)" for name, percent in variations.items() if percent > 10]
    if shaky:
        said.append(
            f"Latencies vary by more than 10 %: {', '.join(shaky)}. Trust medians and paired ratios, but not means and "
            "high percentiles. Close other programs, or measure with a higher effort."
        )
    drifts = [f"{name} ({drift:.2f})" for name, record in good.items() if (drift := _drift(record))]
    if drifts:
        said.append(
            f"Latency changed during the measurement: {', '.join(drifts)} is the last quarter of the queries over the "
            "first. The machine became slower or faster (heat, other load). Trust paired ratios, but not milliseconds."
        )
    for name, record in good.items():
        if record.capped and record.p90_ms is None:
            said.append(f"{name}: {record.capped}; these are too few queries for a 90th percentile.")
        if not record.warmup_stable:
            said.append(
                f"{name}: latency still changed by more than 5 % after the warm-up; measure with a higher effort."
            )
        first, median = record.first_call_ms, record.median_ms
        if first and median and first > max(20 * median, 100):
            said.append(
                f"{name}: the first call takes {first:.0f} ms, {first / median:.0f} times the median; "
                "call the model once before it is needed."
            )
        said += _of_one(name, record)
    steal = max((r.steal_percent or 0 for r in good.values()), default=0)
    if steal > 1:
        said.append(f"The hypervisor took {steal:.1f} % of the CPU time; measure again on a quieter or a real machine.")
    others = max((r.other_cpu_percent or 0 for r in good.values()), default=0)
    if others > 10:
        said.append(
            f"Other processes used {others:.0f} % of the CPU during the measurement; stop them and measure again."
        )
    if before.get("governor") not in (None, "not exposed", "performance"):
        said.append(f"The CPU governor is {before['governor']!r}; set it to performance for steadier numbers.")
    throttled = (after.get("throttle_count") or 0) - (before.get("throttle_count") or 0)
    if throttled > 0:
        said.append(f"The CPU was throttled {throttled} times because of heat; let it cool, and measure again.")
    if before.get("mhz") and after.get("mhz") and after["mhz"] < 0.9 * before["mhz"]:
        said.append(f"The CPU slowed from {before['mhz']:.0f} to {after['mhz']:.0f} MHz; it may be hot, let it cool.")
    for name, parent in (parents or {}).items():
        if name in good and parent in good:
            ratio = paired_ratio(good[name], good[parent])
            if ratio["verdict"] == "slower":
                said.append(
                    f"{name} is slower than the fp32 it was made from ({ratio['median']:.2f} times its latency): the "
                    "quantisation scheme does not suit this CPU. Ship the fp32 file, or build for another target."
                )
    return said


def _threads(records: Mapping[str, Record], here: Mapping[str, Any], threads: int | None) -> list[str]:
    """More threads than there are cores to run them, or than were asked for."""
    if threads is None:
        return []
    said = []
    affinity = here.get("affinity")
    limits = {
        "physical cores": here.get("cores"),
        "CPUs that this process may use": len(affinity) if affinity else None,
        "CPUs of the container's quota": here.get("cgroup_cpus"),
    }
    for what, most in limits.items():
        if most and threads > most:
            said.append(f"{threads} threads share {most:g} {what} and wait for each other; ask for {most:g} at most.")
            break
    for name, record in records.items():
        if not record.failed and (record.cores_used or 0) > 1.2 * threads + 0.2:
            said.append(
                f"{name} used {record.cores_used:.1f} cores, but was asked to use {threads}. Its runtime "
                "starts threads of its own (OMP_NUM_THREADS limits those of OpenMP)."
            )
    return said


def _drift(record: Record) -> float | None:
    """Median of the last quarter of the queries over that of the first, where it is off by more than 10 %."""
    quarter = len(record.samples_ms) // 4
    if quarter < 16:
        return None
    first, last = (sorted(end)[quarter // 2] for end in (record.samples_ms[:quarter], record.samples_ms[-quarter:]))
    return last / first if not 0.9 < last / first < 1.1 else None


def _of_one(name: str, record: Record) -> list[str]:
    """Time that is not the model's."""
    said = []
    if record.overhead_us and record.median_ms and record.overhead_us / 10 > record.median_ms:  # of 1 %, in ms
        said.append(
            f"{name} is host-bound: a query takes {1e3 * record.median_ms:.0f} microseconds, of which timing alone is "
            f"{record.overhead_us / 10 / record.median_ms:.0f} %. Measure it with --scenario offline."
        )
    rates = {int(size): rate for size, rate in record.batches.items()}
    if 1 in rates and 8 in rates and rates[8] > 6 * rates[1]:
        said.append(
            f"{name} is host-bound at one image: 8 at once take only {8 * rates[1] / rates[8]:.1f} times as long. A "
            "single query measures the call more than the model. Use batches where the task allows."
        )
    return said
