"""What this machine is, and what keeps it from running a format."""

from __future__ import annotations

import os
import pkgutil
import platform
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from kdcompress.errors import RuntimeMissingError
from kdcompress.optional import is_installed

# What to install for a format, where kdcompress itself is not there.
PACKAGES = {
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "litert": "ai-edge-litert",
    "executorch": "executorch",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "mnn": "MNN",
    "tensorrt": "tensorrt torch",
    "tensorrt-rtx": "tensorrt-rtx torch",
    "coreml": "coremltools pillow",
}


def python_path(folder: Path) -> str:
    """PYTHONPATH of what is started from here: this file, what stands in for psutil where it is not installed, and
    what there was."""
    found = [sys.argv[0], os.environ.get("PYTHONPATH", "")]
    if not is_installed("psutil") and sys.platform in ("linux", "android"):
        (folder / "lib").mkdir(exist_ok=True)
        (folder / "lib" / "psutil.py").write_bytes(pkgutil.get_data("kdcompress.bench.agent", "procfs.py") or b"")
        found.insert(1, str(folder / "lib"))
    return os.pathsep.join(filter(None, found))


def facts(folder: Path, formats: list[str], runners: str) -> dict[str, Any]:
    """What this machine is, and by format what keeps it from being run here."""
    if (folder / "lib").exists():  # what stands in for psutil
        sys.path.append(str(folder / "lib"))
    lacking = [name for name in ("numpy", "psutil") if not is_installed(name)]
    missing: dict[str, dict[str, str]] = {}
    for name in formats:
        packages = [*lacking, *PACKAGES.get(name, name).split()]
        hint = f"install it there: {sys.executable} -m pip install {' '.join(packages)}"
        if lacking:
            missing[name] = {"got": f"No module named {lacking[0]!r}", "hint": hint}
            continue
        runner = import_module(runners).runner_class(name)
        try:
            if runner is None:
                raise RuntimeMissingError("No runtime for this format.")
            runner.check()
        except RuntimeMissingError as error:
            missing[name] = {"got": str(error.got or error.what), "hint": hint}
    return {
        "python": platform.python_version(),
        "architecture": platform.machine(),
        "instructions": [] if "psutil" in lacking else sorted(import_module("kdcompress.bench.machine").cpu_flags()),
        "system": platform.system(),
        "free_bytes": shutil.disk_usage(folder).free,
        "missing": missing,
    }
