"""The part of psutil that measuring needs, read from Linux's /proc, for a device without psutil: the agent is sent with
this file under psutil's name."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from typing import Any

_CpuTimes = namedtuple("_CpuTimes", "user nice system idle iowait irq softirq steal guest guest_nice")
_Memory = namedtuple("_Memory", "total available")
_Own = namedtuple("_Own", "user system children_user children_system")
_Rss = namedtuple("_Rss", "rss")
_Frequency = namedtuple("_Frequency", "current")


def cpu_count(logical: bool = True) -> int | None:
    if logical:
        return os.cpu_count()
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/core_cpus_list")
    cores = {(_read(file) or "").strip() for file in files}
    return len(cores) or None


def cpu_times() -> Any:
    """Seconds since the start, over all cores; zeros where /proc/stat cannot be read."""
    count = len(_CpuTimes._fields)
    ticks = [int(value) for value in (_read("/proc/stat") or "cpu").split("\n", 1)[0].split()[1 : count + 1]]
    return _CpuTimes(*(value / os.sysconf("SC_CLK_TCK") for value in ticks + [0] * (count - len(ticks))))


def virtual_memory() -> Any:
    lines = (line.split() for line in (_read("/proc/meminfo") or "").splitlines())
    kib = {words[0]: int(words[1]) for words in lines if len(words) > 1}
    return _Memory(kib.get("MemTotal:", 0) * 1024, kib.get("MemAvailable:", 0) * 1024)


def getloadavg() -> tuple[float, float, float]:
    return os.getloadavg()


def cpu_freq() -> Any:
    khz = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return _Frequency(int(khz) / 1000) if khz else None


class Process:
    """This one."""

    def cpu_affinity(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def cpu_times(self) -> Any:
        return _Own(*os.times()[:4])

    def memory_info(self) -> Any:
        pages = (_read("/proc/self/statm") or "0 0").split()[1]
        return _Rss(int(pages) * os.sysconf("SC_PAGE_SIZE"))


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
