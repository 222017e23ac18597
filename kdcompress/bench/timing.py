"""Latency the way MLPerf's single-stream scenario has it: the next query after the previous one returned.

Subjects are interleaved in rounds, so that a slow minute of the machine falls on all of them alike, and are
compared round by round. A turn is two queries in a row and the second is recorded: the first brings the
subject's weights back into the caches, which the subject before it has emptied. Without it a 0.06 ms model next
to a 1.2 ms one measured 0.08 ms, and of two copies of one file the one whose turn came after the larger model
measured 6 % slower. The order within a round is drawn anew each time.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
import psutil

from kdcompress.artifact import InputSpec
from kdcompress.bench import statistics
from kdcompress.bench.machine import cpu_seconds, cpu_use, thread_settings
from kdcompress.errors import UsageError, unknown_name
from kdcompress.runner import Runner

# MLPerf mobile: queries at least, and seconds at least, for each subject.
EFFORTS = {"rapid": (64, 6.0), "quick": (128, 10.0), "normal": (1024, 60.0)}
SCENARIOS = {"single-stream": "the next query of one image after the previous one returned"}
CAP = 10  # a subject stops early once its recorded queries alone took this many times its seconds
MOST = 50_000  # queries of one subject: more add nothing that can be said, and fill the record
POOL = 64  # distinct queries prepared beforehand
MIB = 2**20

Progress = Callable[[float, str], None]  # share done in 0..1, what is being done


@dataclass
class Subject:
    """A model to be timed, with its runner not yet entered."""

    name: str
    runner: Runner
    spec: InputSpec


@dataclass
class Record:
    """The latency of one subject, of queries of ``batch`` images, with all its samples in the order of the rounds.

    Sample i of every record of one ``measure`` was taken in round i, on the same image. A percentile is None
    where n does not support it.
    """

    name: str
    effort: str
    batch: int
    failed: str | None = None  # why there are no more samples than there are
    capped: str | None = None  # why it was ended before the effort asked
    n: int = 0
    median_ms: float | None = None
    mean_ms: float | None = None
    min_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p99_9_ms: float | None = None
    p90_early_stopping_ms: float | None = None  # MLPerf's: p90 is at most this, with confidence 0.99
    cv: float | None = None  # standard deviation over mean
    load_ms: float | None = None
    first_call_ms: float | None = None
    warmup: int = 0  # queries before the first recorded one, the first call not among them
    warmup_stable: bool = False  # the last two blocks' medians within 5 %
    wall_s: float | None = None  # of the interleaved measurement of all subjects
    subjects: int = 1  # how many were interleaved
    overhead_us: float | None = None  # median of timing a call that does nothing, not subtracted
    load_rss_mib: float | None = None  # growth of the process's memory by loading and the first call
    peak_rss_mib: float | None = None  # of the whole process with all subjects loaded
    steal_percent: float | None = None
    other_cpu_percent: float | None = None
    load_average: float | None = None  # one minute, at the end
    environment: dict[str, str] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, Any] | None = None  # to the baseline, where one was named
    samples_ms: list[float] = field(default_factory=list)  # to 0.1 microseconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    subjects: Sequence[Subject],
    images: np.ndarray,
    effort: str = "quick",
    seed: int = 0,
    progress: Progress | None = None,
    baseline: str | None = None,
) -> dict[str, Record]:
    """Times every subject on uint8 [N, H, W, C] images; records by name.

    Batch 1, or the fixed batch of a subject's spec. All subjects together are measured for ``seconds`` of the
    effort times their number, or until each has its queries, whichever is later. A subject that raises is
    recorded as failed with its reason, and the others go on. With ``baseline`` every other record gets its
    paired ratio to that subject.
    """
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    names = [subject.name for subject in subjects]
    if len(set(names)) < len(names):
        raise UsageError("Two subjects of a measurement have the same name.", got=", ".join(names))
    if baseline is not None and baseline not in names:
        raise unknown_name("subject", baseline, names)
    if not len(images):
        raise UsageError("There are no images to measure with.")
    return _measure(subjects, images, effort, *EFFORTS[effort], seed, progress or _quiet, baseline)


def paired_ratio(record: Record, baseline: Record, seed: int = 0) -> dict[str, Any]:
    """Latency of ``record`` over that of ``baseline``, paired by round: median, 95 % interval, verdict, n.

    Below 1 is faster. Fewer pairs than support a median give no interval and no winner.
    """
    n = min(len(record.samples_ms), len(baseline.samples_ms))
    if n < statistics.SUPPORT[50]:
        return {"median": None, "low": None, "high": None, "verdict": "no difference shown", "n": n}
    ratio, low, high = statistics.paired_bootstrap(record.samples_ms[:n], baseline.samples_ms[:n], seed=seed)
    return {"median": ratio, "low": low, "high": high, "verdict": statistics.verdict(low, high), "n": n}


def summarise(record: Record, samples_ms: Sequence[float] | np.ndarray) -> None:
    """Fills in the record what follows from its samples, milliseconds a query in the order of the rounds."""
    ms = np.asarray(samples_ms, float)
    record.n = len(ms)
    if not len(ms):
        return
    record.median_ms = _round(statistics.percentile(ms, 50))
    record.p90_ms = _round(statistics.percentile(ms, 90))
    record.p95_ms = _round(statistics.percentile(ms, 95))
    record.p99_ms = _round(statistics.percentile(ms, 99))
    record.p99_9_ms = _round(statistics.percentile(ms, 99.9))
    record.p90_early_stopping_ms = _round(statistics.early_stopping_estimate(ms, 90))
    record.mean_ms, record.min_ms = _round(ms.mean()), _round(ms.min())
    record.cv = _round(statistics.variation(ms))
    record.samples_ms = [round(value, 4) for value in ms.tolist()]


def add_ratios(records: dict[str, Record], baseline: str | None, seed: int = 0) -> None:
    """Gives every other record its paired ratio to that one, where neither failed."""
    for name, record in records.items():
        if baseline is not None and name != baseline and not record.failed and not records[baseline].failed:
            record.ratio = paired_ratio(record, records[baseline], seed)


def harness_overhead_us(queries: int = 1000) -> float:
    """Median microseconds that timing adds to a query: a call that does nothing, timed as any other."""
    x = np.zeros(1, np.uint8)
    return float(np.median([_timed(_no_op, x) for _ in range(queries)])) / 1e3


def _measure(
    subjects: Sequence[Subject],
    images: np.ndarray,
    effort: str,
    queries: int,
    seconds: float,
    seed: int,
    progress: Progress,
    baseline: str | None,
) -> dict[str, Record]:
    rng = np.random.default_rng(seed)
    pools = {subject.name: _pool(subject.spec, images, seed) for subject in subjects}
    records = {s.name: Record(s.name, effort, s.spec.batch or 1, subjects=len(subjects)) for s in subjects}
    nanoseconds: dict[str, list[int]] = {subject.name: [] for subject in subjects}
    with ExitStack() as stack:
        for i, subject in enumerate(subjects):
            progress(0.1 * i / len(subjects), f"loading {subject.name}")
            _load(subject, pools[subject.name], records[subject.name], stack, seconds / 4)
        active = [subject for subject in subjects if not records[subject.name].failed]
        overhead = harness_overhead_us()
        cpu_before = cpu_seconds()
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            wall = _rounds(active, pools, nanoseconds, records, queries, seconds, rng, progress)
        finally:
            if collecting:
                gc.enable()
        shared = {
            "wall_s": round(wall, 3),
            "overhead_us": round(overhead, 3),
            "peak_rss_mib": _peak_rss_mib(),
            "load_average": round(psutil.getloadavg()[0], 2),
            "environment": thread_settings(),
            **cpu_use(cpu_before, cpu_seconds()),
        }
    for name, record in records.items():
        summarise(record, np.array(nanoseconds[name]) / 1e6)
        vars(record).update(shared)
    add_ratios(records, baseline, seed)
    progress(1.0, "measured")
    return records


def _rounds(
    active: list[Subject],
    pools: dict[str, list[np.ndarray]],
    nanoseconds: dict[str, list[int]],
    records: dict[str, Record],
    queries: int,
    seconds: float,
    rng: np.random.Generator,
    progress: Progress,
) -> float:
    """Rounds of one turn a subject, in random order; returns the seconds they took."""
    least_s = seconds * len(active)
    used = {subject.name: 0 for subject in active}
    start = reported = perf_counter()
    done = 0
    while active:
        elapsed = perf_counter() - start
        if elapsed >= least_s and done >= queries:
            break
        if elapsed + start - reported > 0.25:
            reported = elapsed + start
            progress(0.1 + 0.9 * min(elapsed / least_s, done / queries, 1), f"measuring, round {done}")
        if done >= MOST:
            for subject in active:
                records[subject.name].capped = f"ended at {MOST} queries, in {elapsed:.1f} s"
            break
        pick = int(rng.integers(POOL))
        for subject in [active[i] for i in rng.permutation(len(active))]:
            pool = pools[subject.name]
            try:
                subject.runner.infer(pool[(pick + 1) % len(pool)])
                took = _timed(subject.runner.infer, pool[pick % len(pool)])
            except Exception as error:  # a runtime's own errors have no common type
                records[subject.name].failed = _reason(error, f"query {done + 1}")
                active = [other for other in active if other is not subject]
                continue
            nanoseconds[subject.name].append(took)
            used[subject.name] += took
        done += 1
        for subject in [s for s in active if used[s.name] > CAP * seconds * 1e9 and done < queries]:
            records[
                subject.name
            ].capped = f"ended at {done} of {queries} queries, after {used[subject.name] / 1e9:.0f} s in them"
            active = [other for other in active if other is not subject]
    return perf_counter() - start


def _load(subject: Subject, pool: list[np.ndarray], record: Record, stack: ExitStack, warm_s: float) -> None:
    """Enters the runner, makes its first call and warms it up until two blocks of queries agree."""
    process = psutil.Process()
    before = process.memory_info().rss
    try:
        start = perf_counter_ns()
        stack.enter_context(subject.runner)
        record.load_ms = _round((perf_counter_ns() - start) / 1e6)
        record.first_call_ms = _round(_timed(subject.runner.infer, pool[0]) / 1e6)
        record.load_rss_mib = round((process.memory_info().rss - before) / MIB, 1)
        record.runtime = subject.runner.details()
        record.warmup, record.warmup_stable = _warm_up(subject.runner, pool, warm_s)
    except Exception as error:  # a runtime's own errors have no common type
        record.failed = _reason(error, "loading" if record.load_ms is None else "first call")


def _warm_up(runner: Runner, pool: list[np.ndarray], most_s: float, block: int = 10) -> tuple[int, bool]:
    """Queries made, and whether two blocks of them agreed within 5 % (after 0.2 s at least)."""
    start, previous, made = perf_counter(), 0.0, 0
    while True:
        times = []
        for _ in range(block):
            times.append(_timed(runner.infer, pool[made % len(pool)]))
            made += 1
            if perf_counter() - start > most_s:
                return made, False
        median = float(np.median(times))
        if abs(median - previous) <= 0.05 * previous and perf_counter() - start >= min(0.2, most_s / 2):
            return made, True
        previous = median


def _timed(infer: Callable[[np.ndarray], Any], x: np.ndarray) -> int:
    """Nanoseconds that one query takes."""
    start = perf_counter_ns()
    infer(x)
    return perf_counter_ns() - start


def _pool(spec: InputSpec, images: np.ndarray, seed: int) -> list[np.ndarray]:
    """POOL queries as the model takes them, of images drawn with replacement; the same draw for every spec."""
    batch = spec.batch or 1
    drawn = np.random.default_rng(seed).integers(len(images), size=(POOL, batch))
    return [spec.prepare(images[rows]) for rows in drawn]


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _reason(error: Exception, when: str) -> str:
    return f"{when}: {type(error).__name__}: {error}"


def _peak_rss_mib() -> float | None:
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / MIB, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return round(peak / (MIB if sys.platform == "darwin" else 1024), 1)


def _no_op(x: np.ndarray) -> None:
    return None


def _quiet(share: float, what: str) -> None:
    return None
