"""What machine a number was measured on, and what about the measurement should worry its reader."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import kdcompress

if TYPE_CHECKING:
    from kdcompress.bench.timing import Record

# Instructions that decide which quantisation scheme is fast, as Linux names them.
ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
PACKAGES = ("numpy", "torch", "torchvision", "timm", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx")
_SYSCTL = {  # macOS names of the same instructions
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}


def machine() -> dict[str, Any]:
    """This machine as it is now, JSON-able: what it is, how busy it is, and the packages' versions.

    MHz, GiB and per cent are in the field names; None or "not exposed" stands for what cannot be read here.
    """
    model, flags = _cpu()
    memory = psutil.virtual_memory()
    process = psutil.Process()
    return {
        "cpu": model,
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "affinity": process.cpu_affinity() if hasattr(process, "cpu_affinity") else None,
        "isa": [flag for flag in ISA if flag in flags],
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not exposed",
        "mhz": _mhz(),
        "throttle_count": _throttle_count(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_available_gib": round(memory.available / 2**30, 1),
        "load_average": round(psutil.getloadavg()[0], 2),
        "steal_percent_since_boot": _steal_since_boot(),
        "cgroup_cpus": _cgroup_cpus(),
        "os": _os_name(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "gpu": _gpu(),
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of the installed packages that shape a result; a package that is not installed is not there."""
    found = {"kdcompress": kdcompress.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_memory_mib() -> float | None:
    """Memory in use on the first visible GPU, by whatever process; None where NVIDIA's driver shows no GPU."""
    memory = (ctypes.c_ulonglong * 3)()  # total, free, used
    found = nvml("nvmlDeviceGetMemoryInfo", memory)
    return memory[2] / 2**20 if found else None


def nvml(function: str, result: Any) -> bool:
    """Calls NVML's function of (device, result pointer) for the first visible GPU; whether it could answer."""
    library = _nvml()
    if library is None:
        return False
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    device = ctypes.c_void_p()
    index = int(visible) if visible.isdigit() else 0
    if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
        return False
    return getattr(library, function)(device, ctypes.byref(result)) == 0


@cache
def _nvml() -> Any:
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def cpu_seconds() -> dict[str, float]:
    """CPU time so far, in seconds over all cores: total, stolen by the hypervisor, busy, and that of this process and
    of its children that have ended."""
    times = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    named = times._asdict()
    total = sum(named.values()) - named.get("guest", 0) - named.get("guest_nice", 0)  # guests count in user too
    steal = named.get("steal", 0.0)
    idle = times.idle + named.get("iowait", 0.0)
    mine = sum(own[:4])  # user, system, and the children's
    return {"total": total, "steal": steal, "busy": total - idle - steal, "own": mine}


def cpu_use(before: dict[str, float], after: dict[str, float]) -> dict[str, float | None]:
    """Between two ``cpu_seconds()``: the per cent of all cores stolen by the hypervisor, and used by others here."""
    spent = {key: after[key] - before[key] for key in before}
    if spent["total"] <= 0:
        return {"steal_percent": None, "other_cpu_percent": None}
    others = max(0.0, spent["busy"] - spent["own"])
    return {
        "steal_percent": round(100 * spent["steal"] / spent["total"], 2),
        "other_cpu_percent": round(min(100.0, 100 * others / spent["total"]), 1),
    }


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
    from kdcompress.bench.timing import paired_ratio

    said = _threads(records, before, threads)
    good = {name: record for name, record in records.items() if not record.failed}
    shaky = [f"{name} ({record.cv:.0%})" for name, record in good.items() if (record.cv or 0) > 0.1]
    if shaky:
        said.append(
            f"Latencies vary by more than 10 %: {', '.join(shaky)}. Medians and paired ratios bear this, means and "
            "tails do not; close other programs, or measure with a higher effort."
        )
    drifts = [f"{name} ({drift:.2f})" for name, record in good.items() if (drift := _drift(record))]
    if drifts:
        said.append(
            f"The last quarter of the queries took another time than the first, by a factor: {', '.join(drifts)}. The "
            "machine changed meanwhile (heat, other load): paired ratios bear this, milliseconds do not."
        )
    for name, record in good.items():
        if record.capped and record.p90_ms is None:
            said.append(f"{name}: {record.capped}; too few for a 90th percentile.")
        if not record.warmup_stable:
            said.append(f"{name}: still changing by more than 5 % after its warm-up; measure with a higher effort.")
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
        said.append(f"Other processes used {others:.0f} % of the CPU meanwhile; stop them and measure again.")
    if before.get("governor") not in (None, "not exposed", "performance"):
        said.append(f"The CPU governor is {before['governor']!r}; set it to performance for steadier numbers.")
    throttled = (after.get("throttle_count") or 0) - (before.get("throttle_count") or 0)
    if throttled > 0:
        said.append(f"The CPU was throttled for its heat {throttled} times meanwhile; let it cool, and measure again.")
    if before.get("mhz") and after.get("mhz") and after["mhz"] < 0.9 * before["mhz"]:
        said.append(f"The CPU slowed from {before['mhz']:.0f} to {after['mhz']:.0f} MHz; it may be hot, let it cool.")
    for name, parent in (parents or {}).items():
        if name in good and parent in good:
            ratio = paired_ratio(good[name], good[parent])
            if ratio["verdict"] == "slower":
                said.append(
                    f"{name} is slower than the fp32 it was made from ({ratio['median']:.2f} times its latency): the "
                    "quantisation scheme does not suit this CPU. Ship the fp32, or build for another target."
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
            said.append(f"{threads} threads, and {most:g} {what}: they wait for each other; ask for {most:g} at most.")
            break
    for name, record in records.items():
        if not record.failed and (record.cores_used or 0) > 1.2 * threads + 0.2:
            said.append(
                f"{name} kept {record.cores_used:.1f} cores busy, and {threads} threads were asked for: its runtime "
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
            f"{name} is host-bound: timing alone is {record.overhead_us / 10 / record.median_ms:.0f} % of a query of "
            f"{1e3 * record.median_ms:.0f} microseconds; measure it with --scenario offline."
        )
    rates = {int(size): rate for size, rate in record.batches.items()}
    if 1 in rates and 8 in rates and rates[8] > 6 * rates[1]:
        said.append(
            f"{name} is host-bound at one image: 8 at once take {8 * rates[1] / rates[8]:.1f} times as long. Single "
            "queries measure the calls more than the model; put images together where the task allows."
        )
    return said


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def cpu_family(name: str) -> str:
    """``platform.machine()`` as targets name processors: x86_64, arm64, or what it is in lower case."""
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name.lower(), name.lower())


def cpu_flags() -> set[str]:
    """The CPU's instruction flags by Linux's names."""
    return _cpu()[1]


def _cpu() -> tuple[str, set[str]]:
    """The CPU's name and its instruction flags by Linux's names."""
    if sys.platform == "darwin":
        lines = _sysctl()
        flags = {linux for apple, linux in _SYSCTL.items() if lines.get(apple) == "1"}
        return lines.get("machdep.cpu.brand_string", platform.processor()), flags
    facts: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    model = facts.get("model name") or _read("/proc/device-tree/model") or platform.processor() or platform.machine()
    return model.rstrip("\0"), flags


def _sysctl() -> dict[str, str]:
    try:
        names = ["machdep.cpu.brand_string", "hw.optional"]
        text = subprocess.run(
            ["sysctl", *names], capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _mhz() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (OSError, AttributeError, NotImplementedError, RuntimeError):  # what psutil raises where nothing is exposed
        return None
    return round(frequency.current, 1) if frequency and frequency.current else None


def _throttle_count() -> int | None:
    """How often the cores were slowed for their heat since the start; None where it is not exposed."""
    counts = [
        _read(str(path)) for path in Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    ]
    known = [int(count) for count in counts if count and count.isdigit()]
    return sum(known) if known else None


def _steal_since_boot() -> float | None:
    times = psutil.cpu_times()._asdict()
    total = sum(times.values())
    return round(100 * times["steal"] / total, 2) if "steal" in times and total else None


def _cgroup_cpus() -> float | None:
    """The container's CPU quota in cores; None: no quota, or none to be seen."""
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "").partition(" ")
    if not period:
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.version()}"


def _gpu() -> dict[str, Any] | None:
    """The GPU as an imported torch sees it; torch is never imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    driver = _read("/proc/driver/nvidia/version")
    return {
        "name": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda,
        "driver": driver.splitlines()[0] if driver else None,
        "count": torch.cuda.device_count(),
    }


def thread_settings() -> dict[str, str]:
    """The environment variables that set a runtime's threads, where set."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY")
    return {name: os.environ[name] for name in names if name in os.environ}
