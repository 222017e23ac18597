"""What machine a number was measured on, and what it is doing meanwhile."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

import kdcompress

MIB = 2**20
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
    return {"kdcompress": kdcompress.__version__, **versions_of(PACKAGES)}


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Of those of these packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_mib() -> float | None:
    """Of this process, so far."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / MIB, 1)
    with suppress(OSError):
        # Not what getrusage says, where there is this: on Linux that starts at the peak of the process that started it.
        own = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if own:
            return round(int(own[1]) / 1024, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return round(peak / (MIB if sys.platform == "darwin" else 1024), 1)


def device_memory_mib() -> float | None:
    """Memory in use on the first visible GPU, by whatever process; None where NVIDIA's driver shows no GPU."""
    memory = (ctypes.c_ulonglong * 3)()  # total, free, used
    found = nvml("nvmlDeviceGetMemoryInfo", memory)
    return memory[2] / MIB if found else None


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
    prefixes = ("OMP_", "GOMP_", "KMP_", "MKL_NUM_", "OPENBLAS_NUM_")
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}
