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
from kdcompress.runner import by_name, joined


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
        (image,) = self._interpreter.get_input_details()
        self._input, self._batch = image["index"], int(image["shape"][0])
        self._outputs = by_name(self.artifact, {name: value["index"] for name, value in outputs(self._interpreter)})
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return joined([self._invoke(x[i : i + self._batch]) for i in range(0, len(x), self._batch)])

    def _invoke(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        self._interpreter.set_tensor(self._input, x)
        self._interpreter.invoke()
        return tuple(self._interpreter.get_tensor(output) for output in self._outputs)

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


def outputs(interpreter: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, LiteRT's details) of each output: the names that the file's signature gives them, where it has one. The
    signature lists them in alphabetical order, and the interpreter in an order of its own."""
    listed = interpreter.get_output_details()
    if len(interpreter.get_signature_list()) != 1:
        return [(value["name"], value) for value in listed]
    named = interpreter.get_signature_runner().get_output_details()  # not kept: while it lives, nothing can be run
    order = [value["index"] for value in listed]
    return sorted(named.items(), key=lambda item: order.index(item[1]["index"]))


def errors(lines: list[str]) -> list[str]:
    """Those about errors, of what native code has printed."""
    return [line for line in lines if "error" in line.lower()][:3]
