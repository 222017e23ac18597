"""Core ML packages, on a Mac. Images are fed one by one."""

from __future__ import annotations

import platform
import sys
from types import TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.export.runtimes import runners
from kdcompress.optional import require
from kdcompress.runner import by_name


def check() -> None:
    if sys.platform != "darwin":
        raise RuntimeMissingError(
            "Core ML runs on macOS and iOS only.",
            got=platform.system(),
            hint="measure it on a Mac, or open the .mlpackage in Xcode: its performance report runs on a phone",
        )
    require("coremltools", "coreml", "Running a Core ML model")


@runners.register("coreml")
class CoreMLRunner:
    """Core ML chooses the processor (CPU, GPU or Neural Engine) and its threads, as it does in an app."""

    name = "coreml"
    format = "coreml"
    check = staticmethod(check)

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._model: Any = None

    def __enter__(self) -> CoreMLRunner:
        check()
        ct = require("coremltools", "coreml", "Running a Core ML model")
        if not self.artifact.path.is_dir():
            raise UsageError("There is no such Core ML package.", where=self.artifact.path)
        try:
            self._model = ct.models.MLModel(str(self.artifact.path), compute_units=ct.ComputeUnit.ALL)
        except Exception as error:  # coremltools' errors share no base class
            raise UsageError(
                "Core ML cannot load this package.",
                where=self.artifact.path,
                got=" ".join(str(error).split())[:300],
                hint="export it again",
            ) from error
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        from PIL import Image

        spec = self.artifact.input
        outputs = tuple(np.empty((len(x), *output.shape), np.float32) for output in spec.outputs)
        for i, image in enumerate(x):
            if spec.layout == "float-nchw":
                fed: Any = image[None]
            else:
                fed = Image.fromarray(image[..., 0] if spec.channels == 1 else image)
            found = by_name(self.artifact, self._model.predict({spec.name: fed}))
            for output, value in zip(outputs, found, strict=True):
                output[i] = value[0]
        return outputs

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model = None

    def details(self) -> dict[str, Any]:
        ct = require("coremltools", "coreml", "Running a Core ML model")
        return {
            "runtime": self.name,
            "version": f"coremltools {ct.__version__}, macOS {platform.mac_ver()[0]}",
            "threads": "chosen by Core ML",
            "options": {"compute_units": "all", "batch": "images one by one"},
        }
