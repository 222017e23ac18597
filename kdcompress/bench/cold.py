"""Cold starts: what a process pays before its first answer.

Each query is a process of its own, ``python -m kdcompress.bench.cold``, that loads the runtime and the file and
answers once. A sample is the time from before the runtime's import to after the first answer: Python's own start is
in ``process_ms`` alone. The files are in the system's cache from the second round on; a cold disk comes on top.

Memory is told by such a process in the other scenarios too: in one that has loaded other artefacts before, the next
takes what they have left, and seems to need none.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import psutil

from kdcompress import child
from kdcompress.artifact import Artifact
from kdcompress.bench.machine import MIB, cpu_seconds, cpu_use, device_memory_mib, peak_rss_mib, thread_settings
from kdcompress.bench.record import Interrupted, Record, add_ratios, summarise
from kdcompress.bench.timing import Progress, check
from kdcompress.errors import ended
from kdcompress.runner import Runner

QUERIES = {"rapid": 11, "quick": 32, "normal": 64}  # of each artefact, by effort
LIMIT_S = 600.0  # of a process


@dataclass
class _Starts:
    """An artefact, and what each of its processes said."""

    record: Record
    request: bytes
    said: list[dict[str, Any]] = field(default_factory=list)


def measure(
    artifacts: Mapping[str, Artifact],
    images: np.ndarray,
    open: Callable[..., Runner],
    threads: int = 1,
    effort: str = "quick",
    seed: int = 0,
    progress: Progress | None = None,
    baseline: str | None = None,
) -> dict[str, Record]:
    """Records by label; rounds of one process an artefact, in random order. ``open`` is importable by its name.

    An artefact whose process fails is recorded so with its last words, and the others go on. Raises Interrupted,
    which has the records, for Ctrl-C.
    """
    check(list(artifacts), images, effort, "cold-start", baseline)
    rng = np.random.default_rng(seed)
    starts = []
    for label, artifact in artifacts.items():
        batch = artifact.input.batch or 1
        record = Record(label, effort, batch, "cold-start", subjects=len(artifacts), environment=thread_settings())
        starts.append(_Starts(record, _request(artifact, images, batch, open, threads)))
    before, begun, interrupted = cpu_seconds(), perf_counter_ns(), False
    try:
        for done in range(QUERIES[effort]):
            for i in rng.permutation(len(starts)):
                if not starts[i].record.failed:
                    if progress:
                        progress(done / QUERIES[effort], f"cold start {done + 1} of {starts[i].record.name}")
                    _start(starts[i])
    except KeyboardInterrupt:
        interrupted = True
    used, wall = cpu_use(before, cpu_seconds()), round((perf_counter_ns() - begun) / 1e9, 3)
    for each in starts:
        _summarise(each)
        vars(each.record).update(used, wall_s=wall, load_average=round(psutil.getloadavg()[0], 2))
        if interrupted and not each.record.failed:
            each.record.capped = f"interrupted after {each.record.n} processes"
    records = {each.record.name: each.record for each in starts}
    add_ratios(records, baseline, seed)
    if interrupted:
        raise Interrupted(records)
    return records


def memory(
    artifact: Artifact, images: np.ndarray, open: Callable[..., Runner], threads: int, size: int
) -> tuple[float | None, float | None]:
    """MiB that loading and a query of ``size`` images add to a process of its own, and all that it had at its peak;
    None where they cannot be told."""
    size = artifact.input.batch or size
    starts = _Starts(Record("", "", size), _request(artifact, images, size, open, threads))
    _start(starts)
    said = starts.said[0] if starts.said else {}
    return said.get("load_rss_mib"), said.get("peak_rss_mib")


def _request(artifact: Artifact, images: np.ndarray, size: int, open: Callable[..., Runner], threads: int) -> bytes:
    """What a process is to do: load the artefact and answer a query of so many images."""
    query = artifact.input.prepare(images[np.arange(size) % len(images)])
    return pickle.dumps((open, artifact, threads, query))


def _start(starts: _Starts) -> None:
    command = child.command("kdcompress.bench.cold")
    begun = perf_counter_ns()
    try:
        done = subprocess.run(command, input=starts.request, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        starts.record.failed = f"no answer within {LIMIT_S:.0f} s"
        return
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        starts.record.failed = (
            f"the process ended with {ended(done.returncode)}: {words[-1] if words else 'no message'}"
        )
        return
    lines = done.stdout.decode(errors="replace").splitlines()
    said = json.loads(next(line for line in reversed(lines) if line.startswith('{"load_ms"')))  # runtimes print too
    starts.said.append({**said, "process_ms": (perf_counter_ns() - begun) / 1e6})


def _summarise(starts: _Starts) -> None:
    record, said = starts.record, starts.said
    summarise(record, [each["load_ms"] + each["first_call_ms"] for each in said])
    for key in ("load_ms", "first_call_ms", "process_ms", "peak_rss_mib", "load_rss_mib", "device_mib"):
        known = [each[key] for each in said if each[key] is not None]
        setattr(record, key, round(median(known), 3) if known else None)
    record.warmup_stable = True  # there is none
    if said:
        record.runtime = said[-1]["runtime"]


def main() -> None:
    """The process: reads what to do from standard input, answers in one line of JSON."""
    open_runner, artifact, threads, query = pickle.load(sys.stdin.buffer)  # from the process that started this one
    process = psutil.Process()
    before, device = process.memory_info().rss, device_memory_mib()
    start = perf_counter_ns()
    with open_runner(artifact, threads=threads) as runner:
        loaded = perf_counter_ns()
        runner.infer(query)
        answered = perf_counter_ns()
        peak = peak_rss_mib()
        said: dict[str, Any] = {
            "load_ms": (loaded - start) / 1e6,
            "first_call_ms": (answered - loaded) / 1e6,
            "load_rss_mib": round(max(0.0, peak - before / MIB), 1) if peak is not None else None,
            "device_mib": (device_memory_mib() or 0) - device if device is not None else None,
            "peak_rss_mib": peak,
            "runtime": runner.details(),
        }
    print("\n" + json.dumps(said, default=str))


if __name__ == "__main__":
    main()
