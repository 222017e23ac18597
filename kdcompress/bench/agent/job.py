"""The job: what was sent is measured as it would be where it came from. Unlike the rest it has NumPy and a runtime."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.bench.agent.words import leave, say
from kdcompress.bench.devices import Request, add_memory, local
from kdcompress.bench.machine import machine
from kdcompress.errors import KDCompressError
from kdcompress.runner import infer_all


def measure(folder: Path) -> None:
    """Leaves the answer to the job in the folder: records by kdcompress's own protocol, then the outputs of the first
    images, to be compared: of each, by its number, the values of an image in a row."""
    job = json.loads((folder / "job.json").read_text())
    images = np.load(folder / "images.npy")
    module, _, name = job["open"].partition(":")
    answer: dict[str, Any] = {}
    try:
        open_runner = getattr(import_module(module), name)
        artifacts = {
            label: Artifact.from_json(data, folder / "artifacts" / str(i)).verified()
            for i, (label, data) in enumerate(job["artifacts"].items())
        }
        if job["timed"]:
            request = Request(artifacts, images, open_runner, **job["request"])
            session = local(request, "", _told)
            add_memory(session, request)
            answer = asdict(session)
        else:
            answer = {"before": machine()}
        answer["outputs"] = outputs = {}
        for label, artifact in artifacts.items():
            if answer.get("interrupted"):
                break
            _told(1.0, f"outputs of {label}")
            try:
                with open_runner(artifact, threads=job["request"]["threads"]) as runner:
                    found = infer_all(runner, images[: job["compared"]], artifact.input)
                    arrays = [array.reshape(len(array), -1).tolist() for array in found]
                    outputs[label] = {"arrays": arrays, "runtime": runner.details()}
            except Exception as error:  # a runtime's own errors have no common type
                outputs[label] = {"failed": f"{type(error).__name__}: {error}"}
    except KDCompressError as error:
        answer = {"error": {"what": error.what, "got": error.got, "hint": error.hint}}
    shutil.rmtree(folder / "artifacts")  # makes room for the result on a disk that is full
    leave(folder, answer)


def _told(share: float, what: str) -> None:
    with suppress(OSError):  # the disk is full; the measurement needs none
        say({"share": share, "what": what})
