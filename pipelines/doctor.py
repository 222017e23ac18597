"""What works on this machine, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
from typing import Any

from kdcompress import __version__
from kdcompress.optional import is_installed
from kdcompress.pipelines.catalogue import data, targets


def doctor() -> dict[str, Any]:
    """Versions, devices, formats, targets and data of this machine, JSON-able."""
    import torch

    from kdcompress.bench.machine import machine

    here = machine()
    versions = {**here.pop("packages"), **runtime_packages()}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = targets()
    return {
        "kdcompress": __version__,
        "python": platform.python_version(),
        "machine": here,
        "training device": gpus or ["CPU: no GPU that PyTorch can use"],
        "packages": versions,
        "formats": formats(found),
        "targets": found,
        "devices": devices(),
        "data": data(),
    }


def formats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``catalogue.targets``, one for all targets of a format that need the same here."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        shared = {key: row[key] for key in ("format", "here", "why", "next")}
        found.setdefault(tuple(shared.values()), {**shared, "targets": []})["targets"].append(row["target"])
    return sorted(found.values(), key=lambda row: (row["format"], row["here"]))


def runtime_packages() -> dict[str, str]:
    """Versions of the installed packages that kdcompress itself and its extras for runtimes ask for."""
    try:
        asked = importlib.metadata.requires("kdcompress") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return {}
    versions = {}
    for line in asked:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        if re.search(r"""extra == ['"](dev|docs)['"]""", line):
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def devices() -> list[dict[str, Any]]:
    """What `--device` takes besides this machine, and whether this machine has what that needs."""
    from kdcompress.bench.arm64 import EMULATORS

    emulated = any(map(shutil.which, EMULATORS))
    return [
        _device("ssh", shutil.which("ssh"), "another machine", "install OpenSSH's client"),
        _device("adb", shutil.which("adb"), "an Android device", "install Android's platform tools (Debian: adb)"),
        _device("browser", True, "whatever opens the page", None),
        _device("browser's QR code", is_installed("segno"), "phones", "pip install 'kdcompress[browser]'"),
        _device("emulated-arm64", emulated, "arm64 outputs, no times", "apt-get install qemu-user-static"),
    ]


def _device(name: str, works: object, reaches: str, step: str | None) -> dict[str, Any]:
    return {"device": name, "here": "yes" if works else "no", "for": reaches, "next": None if works else step}
