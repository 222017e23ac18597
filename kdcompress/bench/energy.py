"""Energy of a query, where the machine exposes it: RAPL on x86, tegrastats on a Jetson, NVML on an NVIDIA GPU.

A counter tells what its whole domain (the CPU package, the board, the GPU) took, whoever used it, and is too coarse
for a query. So a subject gets a stretch of queries of its own after the interleaved measurement, and a stretch without
any says what the machine takes anyhow.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from kdcompress.bench.machine import nvml

POWERCAP = Path("/sys/class/powercap")
TEGRA_INTERVAL_MS = 50
# The rail of the whole module, by the names that Jetson boards have for it.
_RAIL = re.compile(r"\b(VDD_IN|POM_5V_IN|SYS5V|VIN_SYS_5V0) (\d+)(?:mW)?/")

Read = Callable[[], float]  # joules since some moment


def measured(ask: Callable[[Any], Any], pool: Sequence[Any], seconds: float) -> dict[str, Any]:
    """Joules of a query by domain, and watts with and without queries; each takes ``seconds``. ``{"source": "not
    exposed"}`` with the reason where nothing is."""
    with meters() as (found, why):
        if not found:
            return {"source": "not exposed", "why": why}
        idle_s, idle, _ = _stretch(found, seconds, lambda i: sleep(seconds / 10))
        busy_s, busy, queries = _stretch(found, seconds, lambda i: ask(pool[i % len(pool)]))
    return {
        "source": ", ".join(found),
        "queries": queries,
        "joules_per_query": {name: float(f"{joules / queries:.4g}") for name, joules in busy.items()},
        "watts": {name: round(joules / busy_s, 2) for name, joules in busy.items()},
        "idle_watts": {name: round(joules / idle_s, 2) for name, joules in idle.items()},
    }


def _stretch(found: dict[str, Read], seconds: float, act: Callable[[int], Any]) -> tuple[float, dict[str, float], int]:
    """Seconds it took, joules by domain, and how often ``act`` was called."""
    before, start, done = {name: read() for name, read in found.items()}, perf_counter(), 0
    while perf_counter() - start < seconds:
        act(done)
        done += 1
    took = perf_counter() - start
    return took, {name: read() - before[name] for name, read in found.items()}, done


@contextmanager
def meters() -> Iterator[tuple[dict[str, Read], str]]:
    """What can be read here, by domain, and why there is nothing where there is not."""
    found, why = _rapl(POWERCAP)
    if _nvml_joules() is not None:
        found["GPU (NVML)"] = lambda: _nvml_joules() or 0.0
    with _tegrastats() as board:
        yield (found | board, why)


def _rapl(folder: Path) -> tuple[dict[str, Read], str]:
    """RAPL's packages. They wrap around; a stretch is far shorter than that takes, so it happens once at most."""
    domains = sorted(folder.glob("intel-rapl:*")) if folder.is_dir() else []
    found: dict[str, Read] = {}
    for domain in domains:
        if domain.name.count(":") > 1:  # a part of a package
            continue
        try:
            int((domain / "energy_uj").read_text())
        except OSError as error:
            return {}, f"RAPL's counters cannot be read ({error.strerror}): only root may read them"
        found[f"{(domain / 'name').read_text().strip()} (RAPL)"] = _Rapl(domain)
    return found, "no RAPL, no tegrastats, no NVML"


class _Rapl:
    """Joules of one domain since it was first read."""

    def __init__(self, domain: Path):
        self.counter, self.range = domain / "energy_uj", int((domain / "max_energy_range_uj").read_text())
        self.last, self.sum = int(self.counter.read_text()), 0

    def __call__(self) -> float:
        now = int(self.counter.read_text())
        self.sum += (now - self.last) % (self.range + 1)
        self.last = now
        return self.sum / 1e6


def _nvml_joules() -> float | None:
    millijoules = ctypes.c_ulonglong()
    return millijoules.value / 1e3 if nvml("nvmlDeviceGetTotalEnergyConsumption", millijoules) else None


@contextmanager
def _tegrastats() -> Iterator[dict[str, Read]]:
    """The board's input rail, its power summed over time by a thread that reads tegrastats' lines."""
    program = shutil.which("tegrastats")
    if program is None:
        yield {}
        return
    process = subprocess.Popen(
        [program, "--interval", str(TEGRA_INTERVAL_MS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    state = 0.0, 0.0, perf_counter()  # joules until then, watts since, and when that is: one object for two threads
    first = threading.Event()

    def joules(now: float) -> float:
        until, watts, last = state
        return until + watts * (now - last)

    def follow() -> None:
        nonlocal state
        for line in process.stdout or ():
            if rail := _RAIL.search(line):
                now = perf_counter()
                state = joules(now), int(rail[2]) / 1e3, now
                first.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield {"board (tegrastats)": lambda: joules(perf_counter())} if first.wait(10) else {}
    finally:
        process.terminate()
        process.wait()
        thread.join()
        if process.stdout:
            process.stdout.close()
