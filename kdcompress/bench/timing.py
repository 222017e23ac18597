"""Latency the way MLPerf's single-stream scenario has it: the next query after the previous one returned.

Subjects are interleaved in rounds, so that a slow minute of the machine falls on all of them alike, and are
compared round by round. A turn is two queries in a row and the second is recorded: the first brings the
subject's weights back into the caches, which the subject before it has emptied. Without it a 0.06 ms model next
to a 1.2 ms one measured 0.08 ms, and of two copies of one file the one whose turn came after the larger model
measured 6 % slower. The order within a round is drawn anew each time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns, process_time
from typing import Any

import numpy as np
import psutil

from kdcompress.artifact import InputSpec
from kdcompress.bench import energy
from kdcompress.bench.machine import MIB, cpu_seconds, cpu_use, device_memory_mib, peak_rss_mib, thread_settings
from kdcompress.bench.record import Interrupted, Record, add_ratios, summarise
from kdcompress.errors import UsageError, unknown_name
from kdcompress.runner import Runner

# MLPerf mobile: queries at least, and seconds at least, for each subject.
EFFORTS = {"rapid": (64, 6.0), "quick": (128, 10.0), "normal": (1024, 60.0)}
SCENARIOS = {
    "single-stream": "the next query of one image after the previous one returned",
    "multi-stream": "the next query of 8 images after the previous one returned",
    "offline": "images per second, in queries of the size that gives the most",
    "cold-start": "each query in a new process: load the runtime and the file, then answer once",
}
MULTI_STREAM = 8  # images a query, as MLPerf has it
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)  # that offline tries
OFFLINE_QUERIES = 64  # throughput is a median: more queries say no more
CAP = 10  # a subject stops early once its recorded queries alone took this many times its seconds
MOST = 50_000  # queries of one subject: more add nothing that can be said, and fill the record
POOL = 64  # distinct queries prepared beforehand
POOL_BYTES = 256 * 2**20  # fewer, where they would take more

Progress = Callable[[float, str], None]  # share done in 0..1, what is being done


@dataclass
class Subject:
    """A model to be timed, with its runner not yet entered."""

    name: str
    runner: Runner
    spec: InputSpec


def measure(
    subjects: Sequence[Subject],
    images: np.ndarray,
    effort: str = "quick",
    seed: int = 0,
    progress: Progress | None = None,
    baseline: str | None = None,
    scenario: str = "single-stream",
) -> dict[str, Record]:
    """Times every subject on uint8 [N, H, W, C] images; records by name.

    A query has one image (multi-stream: 8, offline: the batch size with the highest throughput), or the fixed batch
    of a subject's spec. All subjects together are measured for ``seconds`` of the effort times their number, or until
    each has its queries, whichever is later. A subject that raises is recorded as failed with its reason, and the
    others go on. With ``baseline`` every other record gets its paired ratio to that subject.

    Raises Interrupted, which has the records, for Ctrl-C once queries are being recorded.
    """
    names = [subject.name for subject in subjects]
    check(names, images, effort, scenario, baseline)
    queries, seconds = EFFORTS[effort]
    if scenario == "offline":
        queries = min(queries, OFFLINE_QUERIES)
    rng = np.random.default_rng(seed)
    live = [_Live(s, Record(s.name, effort, _batch(s.spec, scenario), scenario)) for s in subjects]
    return _measure(live, images, queries, seconds, seed, rng, progress or _quiet, baseline)


def check(names: Sequence[str], images: np.ndarray, effort: str, scenario: str, baseline: str | None) -> None:
    """Raises UsageError for a measurement that cannot be made."""
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    if scenario not in SCENARIOS:
        raise unknown_name("scenario", scenario, SCENARIOS)
    if len(set(names)) < len(names):
        raise UsageError("Two files of a measurement have the same name.", got=", ".join(names))
    if baseline is not None and baseline not in names:
        raise unknown_name("file", baseline, names)
    if not len(images):
        raise UsageError("There are no images to measure with.")


def harness_overhead_us(queries: int = 1000) -> float:
    """Median microseconds that timing adds to a query: a call that does nothing, timed as any other."""
    x = np.zeros(1, np.uint8)
    return float(np.median([timed(_no_op, x) for _ in range(queries)])) / 1e3


@dataclass
class _Live:
    """A subject while it is measured: its queries, what makes one, and what each took."""

    subject: Subject
    record: Record
    pool: list[Any] = field(default_factory=list)
    ask: Callable[[Any], Any] = lambda query: None
    nanoseconds: list[int] = field(default_factory=list)


def _measure(
    live: list[_Live],
    images: np.ndarray,
    queries: int,
    seconds: float,
    seed: int,
    rng: np.random.Generator,
    progress: Progress,
    baseline: str | None,
) -> dict[str, Record]:
    records = {each.subject.name: each.record for each in live}
    interrupted = False
    with ExitStack() as stack:
        for i, each in enumerate(live):
            progress(0.1 * i / len(live), f"loading {each.subject.name}")
            _load(each, images, seed, seconds, stack)
        active = [each for each in live if not each.record.failed]
        overhead = harness_overhead_us()
        cpu_before = cpu_seconds()
        start = perf_counter()
        wall = 0.0
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            _rounds(active, queries, seconds, rng, progress)
            wall, used = perf_counter() - start, cpu_use(cpu_before, cpu_seconds())
            for each in active:
                if not each.record.failed:
                    each.record.energy = energy.measured(each.ask, each.pool, min(2.0, seconds / 4))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if collecting:
                gc.enable()
        shared = {
            "subjects": len(live),
            "wall_s": round(wall or perf_counter() - start, 3),
            "overhead_us": round(overhead, 3),
            "peak_rss_mib": peak_rss_mib(),
            "load_average": round(psutil.getloadavg()[0], 2),
            "environment": thread_settings(),
            **(used if wall else cpu_use(cpu_before, cpu_seconds())),
        }
    for each in live:
        summarise(each.record, np.array(each.nanoseconds) / 1e6)
        vars(each.record).update(shared)
        if interrupted and not each.record.failed:
            each.record.capped = f"interrupted after {each.record.n} queries"
    add_ratios(records, baseline, seed)
    if interrupted:
        raise Interrupted(records)
    progress(1.0, "measured")
    return records


def _rounds(active: list[_Live], queries: int, seconds: float, rng: np.random.Generator, progress: Progress) -> None:
    """Rounds of one turn a subject, in random order."""
    least_s = seconds * len(active)
    used = {each.subject.name: 0 for each in active}
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
            for each in active:
                each.record.capped = f"ended at {MOST} queries, in {elapsed:.1f} s"
            break
        pick = int(rng.integers(POOL))
        for each in [active[i] for i in rng.permutation(len(active))]:
            try:
                each.ask(each.pool[(pick + 1) % len(each.pool)])
                took = timed(each.ask, each.pool[pick % len(each.pool)])
            except Exception as error:  # a runtime's own errors have no common type
                each.record.failed = _reason(error, f"query {done + 1}")
                active = [other for other in active if other is not each]
                continue
            each.nanoseconds.append(took)
            used[each.subject.name] += took
        done += 1
        for each in [e for e in active if used[e.subject.name] > CAP * seconds * 1e9 and done < queries]:
            took_s = used[each.subject.name] / 1e9
            each.record.capped = f"ended at {done} of {queries} queries, after {took_s:.0f} s in them"
            active = [other for other in active if other is not each]


def _load(live: _Live, images: np.ndarray, seed: int, seconds: float, stack: ExitStack) -> None:
    """Enters the runner, makes its first call and warms it up until two blocks of queries agree."""
    subject, record, process = live.subject, live.record, psutil.Process()
    infer = subject.runner.infer
    live.pool, live.ask = pool_of(subject.spec, images, seed, record.batch), infer
    if subject.spec.batch not in (None, record.batch):  # a query is several calls
        live.pool, live.ask = _in_parts(live.pool, subject.spec.batch or 1), lambda parts: [infer(x) for x in parts]
    before, device = process.memory_info().rss, device_memory_mib()
    try:
        start = perf_counter_ns()
        stack.enter_context(subject.runner)
        record.load_ms = round((perf_counter_ns() - start) / 1e6, 4)
        record.first_call_ms = round(timed(live.ask, live.pool[0]) / 1e6, 4)
        record.load_rss_mib = round((process.memory_info().rss - before) / MIB, 1)
        record.device_mib = round((device_memory_mib() or 0) - device, 1) if device is not None else None
        record.runtime = subject.runner.details()
        if record.scenario == "offline" and subject.spec.batch is None:
            record.batches = _throughputs(subject, images, seconds / 8)
            best = max(record.batches.values())
            record.batch = min(size for size, rate in record.batches.items() if rate > 0.98 * best)
            live.pool = pool_of(subject.spec, images, seed, record.batch)
        record.warmup, record.warmup_stable, record.cores_used = _warm_up(live, seconds / 4)
    except Exception as error:  # a runtime's own errors have no common type
        record.failed = _reason(error, "loading" if record.load_ms is None else "first call")


def _warm_up(live: _Live, most_s: float, block: int = 10) -> tuple[int, bool, float]:
    """Queries made, whether two blocks of them agreed within 5 % (after 0.2 s at least), and cores used."""
    start, previous, made, cpu = perf_counter(), 0.0, 0, process_time()
    stable = over = False
    while not stable and not over:
        times: list[int] = []
        while len(times) < block and not over:
            times.append(timed(live.ask, live.pool[made % len(live.pool)]))
            made += 1
            over = perf_counter() - start > most_s
        median = float(np.median(times))
        stable = not over and abs(median - previous) <= 0.05 * previous
        stable = stable and perf_counter() - start >= min(0.2, most_s / 2)
        previous = median
    return made, stable, round((process_time() - cpu) / (perf_counter() - start), 2)


def _throughputs(subject: Subject, images: np.ndarray, seconds: float) -> dict[int, float]:
    """Images a second by batch size, from one on until it falls, a query takes too long or the runtime refuses."""
    found: dict[int, float] = {}
    for size in BATCHES:
        query = subject.spec.prepare(images[np.arange(size) % len(images)])
        try:
            subject.runner.infer(query)
            times: list[int] = []
            while len(times) < 3 or (sum(times) < seconds / 4 * 1e9 and len(times) < 50):
                times.append(timed(subject.runner.infer, query))
        except Exception:  # a runtime's own errors have no common type; of too large a batch they are its limit
            if not found:
                raise
            break
        found[size] = round(size / (min(times) / 1e9), 2)  # of the fastest: other load only ever adds
        falling = [rate < 0.9 * max(found.values()) for rate in list(found.values())[-2:]]
        if falling == [True, True] or min(times) > seconds * 1e9:
            break
        if query.nbytes * 2 > POOL_BYTES:
            break
    return found


def timed(infer: Callable[[Any], Any], x: Any) -> int:
    """Nanoseconds that one query takes."""
    start = perf_counter_ns()
    infer(x)
    return perf_counter_ns() - start


def _batch(spec: InputSpec, scenario: str) -> int:
    """Images a query; offline finds its own where the model takes any."""
    return MULTI_STREAM if scenario == "multi-stream" else spec.batch or 1


def pool_of(spec: InputSpec, images: np.ndarray, seed: int, batch: int) -> list[np.ndarray]:
    """POOL queries as the model takes them, of images drawn with replacement; the same draw for every spec."""
    drawn = np.random.default_rng(seed).integers(len(images), size=(POOL, batch))
    first = spec.prepare(images[drawn[0]])
    most = max(2, POOL_BYTES // first.nbytes)
    return [first, *(spec.prepare(images[rows]) for rows in drawn[1:most])]


def _in_parts(pool: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """Each query in whole parts of ``size`` images; the last image is repeated where they do not divide."""
    whole = [np.concatenate([x, np.repeat(x[-1:], -len(x) % size, axis=0)]) for x in pool]
    return [[np.ascontiguousarray(x[i : i + size]) for i in range(0, len(x), size)] for x in whole]


def _reason(error: Exception, when: str) -> str:
    return f"{when}: {type(error).__name__}: {error}"


def _no_op(x: np.ndarray) -> None:
    return None


def _quiet(share: float, what: str) -> None:
    return None
