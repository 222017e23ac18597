"""What a measurement of one subject says: its samples, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kdcompress.bench import statistics


@dataclass
class Record:
    """The latency of one subject, of queries of ``batch`` images, with all its samples in the order of the rounds.

    Sample i of every record of one ``measure`` was taken in round i, on the same image. A percentile is None
    where n does not support it.
    """

    name: str
    effort: str
    batch: int
    scenario: str = "single-stream"
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
    images_per_second: float | None = None  # of a query of median latency
    batches: dict[int, float] = field(default_factory=dict)  # offline: images a second of each batch size tried
    load_ms: float | None = None
    first_call_ms: float | None = None
    warmup: int = 0  # queries before the first recorded one, the first call not among them
    warmup_stable: bool = False  # the last two blocks' medians within 5 %
    cores_used: float | None = None  # CPU time over time, during the warm-up
    wall_s: float | None = None  # of the interleaved measurement of all subjects
    subjects: int = 1  # how many were interleaved
    overhead_us: float | None = None  # median of timing a call that does nothing, not subtracted
    load_rss_mib: float | None = None  # what loading and the first call add; after subjects before it too little
    peak_rss_mib: float | None = None  # of the whole process; of one of its own where ``cold`` tells both
    device_mib: float | None = None  # growth of the GPU's memory in use by loading and the first call
    process_ms: float | None = None  # cold-start: the whole process, Python's own start and end included
    energy: dict[str, Any] | None = None  # energy.measured()
    steal_percent: float | None = None
    other_cpu_percent: float | None = None
    load_average: float | None = None  # one minute, at the end
    environment: dict[str, str] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, Any] | None = None  # to the baseline, where one was named
    samples_ms: list[float] = field(default_factory=list)  # to 0.1 microseconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while queries were made: ``records`` holds what was measured until then."""

    def __init__(self, records: dict[str, Record]):
        super().__init__()
        self.records = records


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
    record.images_per_second = _round(1e3 * record.batch / float(np.median(ms)))
    record.samples_ms = [round(value, 4) for value in ms.tolist()]


def paired_ratio(record: Record, baseline: Record, seed: int = 0) -> dict[str, Any]:
    """Latency an image of ``record`` over that of ``baseline``, paired by round: median, 95 % interval, verdict, n.

    Below 1 is faster. The interval is that of the rounds, widened by what the ratio changes from one process to the
    next (``statistics.reproducible``). Fewer pairs than support a median give no interval and no winner.
    """
    n = min(len(record.samples_ms), len(baseline.samples_ms))
    if n < statistics.SUPPORT[50]:
        return {"median": None, "low": None, "high": None, "verdict": "no difference shown", "n": n}
    mine, others = (np.array(r.samples_ms[:n]) / r.batch for r in (record, baseline))
    ratio, *interval = statistics.paired_bootstrap(mine, others, seed=seed)
    low, high = statistics.reproducible(*interval)
    return {"median": ratio, "low": low, "high": high, "verdict": statistics.verdict(low, high), "n": n}


def add_ratios(records: dict[str, Record], baseline: str | None, seed: int = 0) -> None:
    """Gives every other record its paired ratio to that one, where neither failed."""
    for name, record in records.items():
        if baseline is not None and name != baseline and not record.failed and not records[baseline].failed:
            record.ratio = paired_ratio(record, records[baseline], seed)


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
