"""What is sent to another machine: the agent, and the job."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdcompress.bench.devices import Request

SAMPLE = 64  # images that are sent
COMPARED = 32  # whose outputs come back


def write_agent(file: IO[bytes], opener: Callable[..., Any]) -> None:
    """The agent, a zip that Python runs: kdcompress's modules that measure, and those beside the one that runners are
    opened by."""
    package = opener.__module__.rpartition(".")[0]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("kdcompress", "kdcompress.bench", "kdcompress.bench.agent", package):
            spec = importlib.util.find_spec(name)
            for folder in (spec.submodule_search_locations or []) if spec else []:
                for path in sorted(Path(folder).glob("*.py")):
                    archive.write(path, f"{name.replace('.', '/')}/{path.name}")
        archive.writestr(
            "__main__.py", "import sys\nfrom kdcompress.bench.agent.main import main\n\nmain(sys.argv[1:])\n"
        )


def write_job(file: IO[bytes], request: Request, *, limit_s: float, timed: bool = True) -> None:
    """The job, a tar: artefacts, images, and last what to do with them."""
    job = {
        "artifacts": {label: artifact.to_json() for label, artifact in request.artifacts.items()},
        "open": f"{request.open.__module__}:{request.open.__qualname__}",
        "request": {k: getattr(request, k) for k in ("threads", "effort", "scenario", "seed", "baseline")},
        "compared": COMPARED,
        "limit_s": limit_s,
        "timed": timed,
    }
    images = io.BytesIO()
    np.save(images, request.images[:SAMPLE])
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i, artifact in enumerate(request.artifacts.values()):
            tar.add(artifact.path, f"artifacts/{i}/{artifact.path.name}")
        for name, data in (("images.npy", images.getvalue()), ("job.partial", json.dumps(job).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
