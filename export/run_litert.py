""".tflite files on the CPU, through LiteRT's interpreter."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import UsageError
from kdcompress.export.quiet import native_errors
from kdcompress.export.runtimes import runners
from kdcompress.optional import require, require_installed


def library() -> ModuleType:
    return require("ai_edge_litert.interpreter", "litert-runtime", "Running a .tflite file")


def check() -> None:
    require_installed("ai_edge_litert", "litert-runtime", "Running a .tflite file")


@runners.register("litert")
class LiteRTRunner:
    """With the XNNPACK delegate, as LiteRT's default is, and the threads asked for.

    A file has the batch size it was converted with: 1 where the artefact's input allows any, and then the images of
    a batch go through it one by one, as they would on the device.
    """

    name = "litert"
    format = "litert"
    check = staticmethod(check)

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._interpreter: Any = None

    def __enter__(self) -> LiteRTRunner:
        self._interpreter = open_interpreter(self.artifact.path, self.threads)
        (image,), (logits,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output, self._batch = image["index"], logits["index"], int(image["shape"][0])
        return self

    def infer(self, x: np.ndarray) -> np.ndarray:
        if len(x) == self._batch:
            return self._invoke(x)
        return np.concatenate([self._invoke(x[i : i + self._batch]) for i in range(0, len(x), self._batch)])

    def _invoke(self, x: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input, x)
        self._interpreter.invoke()
        logits: np.ndarray = self._interpreter.get_tensor(self._output)
        return logits

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interpreter = None

    def details(self) -> dict[str, Any]:
        return {
            "runtime": self.name,
            "version": version("ai-edge-litert"),
            "threads": self.threads,
            "options": {"delegate": "XNNPACK", "batch": self._batch if self._interpreter else None},
        }


def open_interpreter(path: Path, threads: int = 1) -> Any:
    """An interpreter that is ready to run. Raises UsageError where the file cannot be loaded."""
    if not path.is_file():
        raise UsageError("There is no such .tflite file.", where=path)
    interpreter = library().Interpreter
    with native_errors() as said:
        try:
            opened = interpreter(model_path=str(path), num_threads=threads)
            opened.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            got = " | ".join([*str(error).splitlines(), *errors(said())])[:400]
            raise UsageError(
                "LiteRT cannot load this file.", where=path, got=got, hint="it is damaged, or no .tflite: export again"
            ) from error
    return opened


def errors(lines: list[str]) -> list[str]:
    """Those about errors, of what native code has printed."""
    return [line for line in lines if "error" in line.lower()][:3]
