"""The table of what runs artefacts: runners register themselves.

This module and those of the runners are also sent to devices that have Python, NumPy and a runtime: importing them
needs no more than the first two.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.registry import Registry

if TYPE_CHECKING:
    from kdcompress.artifact import Artifact
    from kdcompress.runner import Runner

# A runner is a class: RunnerClass(artifact, threads, **options), with ``format`` (of the artefacts it loads) and
# ``check``, which raises RuntimeMissingError where it cannot run here. Of several with one format the artefact's target
# names one; the others take an artefact that names none, unless they are an ``accelerator``'s.
runners: Registry[Any] = Registry("runtime", "kdcompress.export", prefix="run_")


def open_runner(artifact: Artifact, threads: int = 1, **options: Any) -> Runner:
    """The runner that loads this artefact; enter it to load.

    Raises RuntimeMissingError where it cannot run here.
    """
    runner: Runner = runner_of(artifact)(artifact, threads=threads, **options)
    return runner


def runner_of(artifact: Artifact) -> Any:
    """The class of the runner that loads this artefact, which can run here: the errors are ``open_runner``'s."""
    chosen = runner_class(artifact.format, artifact.provenance.get("runtime"))
    if chosen is None:
        known = ", ".join(sorted({runner.format for runner in runners.entries().values()}))
        raise UsageError("No runtime here loads this format.", where=artifact.path, got=artifact.format, allowed=known)
    chosen.check()
    return chosen


def runner_class(format: str, named: str | None = None) -> Any | None:
    """The runner that loads files of ``format``: the one of that name, or the first that is no accelerator's."""
    found = [runner for runner in runners.entries().values() if runner.format == format]
    others = [runner for runner in found if not getattr(runner, "accelerator", "")]
    return next((runner for runner in found if runner.name == named), next(iter(others), None))


def require_gpu(why: str, hint: str = "do this on a machine with an NVIDIA GPU") -> dict[str, str]:
    """The first NVIDIA device: its name, and its compute capability such as "8.7".

    Raises RuntimeMissingError unless the driver answers and has a device.
    """
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        got = "the NVIDIA driver is not installed"
    else:
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value:
            return _device(driver)
        got = "the NVIDIA driver finds no device"
    raise RuntimeMissingError(f"No CUDA device: {why}.", got=got, hint=hint)


def _device(driver: ctypes.CDLL) -> dict[str, str]:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    for value, attribute in ((major, 75), (minor, 76)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return {"name": name.value.decode(), "compute_capability": f"{major.value}.{minor.value}"}
