"""Files that may be damaged, or made to do harm, are opened in a process of its own first: the libraries that read them
crash on some, take all memory for others, and compute without end on others."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress import child, errors
from kdcompress.artifact import Artifact, size_of
from kdcompress.errors import KDCompressError, UsageError, ended
from kdcompress.export.runtimes import open_runner
from kdcompress.untrusted import MOST_BYTES, existing

LIMIT_S = 300.0  # to open a file and to answer once
MEMORY = (4 << 30, 32)  # bytes, and times the file's size: what the process may take


def apart(work: Callable[..., Any], path: Path, *arguments: Any, limit_s: float | None = None) -> Any:
    """``work(path, *arguments)``, JSON-able all of them, in a process of its own. ``work`` is importable by its name.

    Raises what ``work`` raises of KDCompressError, and UsageError where the process crashes, takes too much memory or
    does not end.
    """
    limit_s = limit_s or LIMIT_S
    existing(path)
    asked: dict[str, Any] = {
        "work": f"{work.__module__}:{work.__qualname__}",
        "path": str(path),
        "arguments": arguments,
    }
    asked["memory"] = MEMORY[0] + MEMORY[1] * size_of(path)
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as log:
        command = child.command("kdcompress.export.apart")
        try:
            code = subprocess.run(
                command, input=json.dumps(asked).encode(), stdout=answer, stderr=log, timeout=limit_s, check=False
            ).returncode
        except subprocess.TimeoutExpired as error:
            hint = "it is damaged, or its graph does not end"
            raise UsageError("The file gives no answer.", where=path, got=f"{limit_s:.0f} s", hint=hint) from error
        answer.seek(0)
        said = answer.read(MOST_BYTES)
        log.seek(0)
        words = log.read(1 << 20).decode(errors="replace").strip().splitlines()
    if code:
        why = "it took too much memory, or " if code == -9 else ""
        raise UsageError(
            f"The runtime ended with {ended(code)} while loading this file.",
            where=path,
            got=words[-1] if words and code > 0 else None,
            hint=f"{why}the file is damaged: export it again",
        )
    found = json.loads(said)
    if "error" in found:
        kind, what, parts = found["error"]
        raise getattr(errors, kind)(what, **parts)
    return found["answer"]


def tried(described: Callable[[Path], Artifact], path: Path, here: bool = True) -> Artifact:
    """``described(path)``, once the file has loaded and answered a query in a process of its own; with ``here`` false,
    once it was described there."""
    found = apart(first_answer, path, f"{described.__module__}:{described.__qualname__}", here)
    return replace(Artifact.from_json({**found, "path": "named below"}, path.parent), path=path)


def first_answer(path: Path, described: str, here: bool) -> dict[str, Any]:
    """The artefact as ``to_json`` gives it, once the runtime, where it is on this machine, has outlived a query."""
    artifact: Artifact = _named(described)(path)
    with suppress(Exception):  # what a runtime says of a file is told by the command that runs it
        if here:
            spec = artifact.input
            images = np.zeros((spec.batch or 1, spec.height, spec.width, spec.channels), np.uint8)
            with open_runner(artifact) as runner:
                runner.infer(spec.prepare(images))
    return artifact.to_json()


def _named(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _limit(most: int) -> None:
    """Of the memory that this process may take; where memory is short, this process is what the system ends."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """The process: reads what to do from standard input, and answers on standard output, where libraries print not."""
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit(asked["memory"])
    try:
        said: dict[str, Any] = {"answer": _named(asked["work"])(Path(asked["path"]), *asked["arguments"])}
    except KDCompressError as error:
        said = {"error": [type(error).__name__, error.what, error.parts]}
    except MemoryError:
        said = {"error": ["UsageError", "The file takes too much memory.", {"where": asked["path"]}]}
    json.dump(said, answer, default=str)
    answer.flush()
    os._exit(0)  # nothing more of the libraries runs


if __name__ == "__main__":
    main()
