"""What there is: the names that recipes can use, and what works on this machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from kdcompress import __version__


def models() -> list[dict[str, Any]]:
    from kdcompress.models.build import names

    return [{"model": name, "from": group} for group, members in names().items() for name in members]


def methods() -> list[dict[str, Any]]:
    from kdcompress.methods import methods as registry

    return [
        {
            "method": name,
            "family": method.family,
            "paper": method.paper or None,
            "student": method.needs.student,
            "teacher": method.needs.teacher or None,
            "ships": method.deploy,
            "options": ", ".join(f"{k}={_short(f.default)}" for k, f in method.Options.model_fields.items()),
        }
        for name, method in registry.entries().items()
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def data() -> list[dict[str, Any]]:
    from kdcompress.data.source import find, sources
    from kdcompress.errors import KDCompressError
    from kdcompress.recipe import Data

    rows = []
    for name in sources:
        try:
            found = find(Data.model_validate({"source": name}))
            rows.append({"data": name, "here": "yes" if found.ready else "no", "from": found.origin})
        except KDCompressError as error:
            rows.append({"data": name, "here": "no", "from": error.what})
    return rows


def targets() -> list[dict[str, Any]]:
    from kdcompress.export import formats

    rows = []
    for name, target in formats.targets().items():
        can_build, can_run, why, step = formats.availability(target)
        here = "builds and runs" if can_build and can_run else "builds" if can_build else "no"
        rows.append(
            {
                "target": name,
                "format": target.format,
                "precision": target.precision,
                "here": here,
                "why": why or None,
                "next": step or None,
            }
        )
    return rows


def shipped_recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def recipes() -> list[dict[str, Any]]:
    return [{"recipe": name, "about": _first_comment(path.read_text())} for name, path in shipped_recipes().items()]


def _first_comment(text: str) -> str:
    return text.splitlines()[0].lstrip("# ") if text.startswith("#") else ""


def doctor() -> dict[str, Any]:
    """Versions, devices, data and targets of this machine."""
    import torch

    from kdcompress.bench.machine import machine, packages

    installed, here = packages(), machine()
    here.pop("packages")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "kdcompress": __version__,
        "python": platform.python_version(),
        "machine": here,
        "training device": gpus or ["CPU: no GPU that PyTorch can use"],
        "packages": installed,
        "targets": targets(),
        "data": data(),
    }
