"""MNN files on the CPU."""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import UsageError
from kdcompress.export.quiet import native_output
from kdcompress.export.runtimes import runners
from kdcompress.optional import require, require_installed
from kdcompress.runner import by_name

PRECISIONS = {"fp32": "high", "fp16": "low"}  # low: fp16 arithmetic where the CPU has it


def library(name: str = "MNN") -> ModuleType:
    with native_output():
        return require(name, "mnn", "Running an MNN model")


def check() -> None:
    require_installed("MNN", "mnn", "Running an MNN model")


@runners.register("mnn")
class MnnRunner:
    """An fp32 model is computed in fp32; an fp16 one in fp16 where the CPU has it, in fp32 elsewhere."""

    name = "mnn"
    format = "mnn"
    check = staticmethod(check)

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._net: Any = None

    def __enter__(self) -> MnnRunner:
        spec, path = self.artifact.input, self.artifact.path
        nn, self._expr = library("MNN.nn"), library("MNN.expr")
        if not path.is_file():
            raise UsageError("There is no such MNN file.", where=path)
        config = {"precision": PRECISIONS[self.artifact.precision], "numThread": self.threads, "backend": "CPU"}
        try:
            with native_output():
                self._runtime = nn.create_runtime_manager((config,))
                self._net = nn.load_module_from_file(str(path), [spec.name], [], runtime_manager=self._runtime)
        except Exception as error:  # SystemError, raised from a plain Exception
            raise UsageError(
                "MNN cannot load this file.",
                where=path,
                got=str(error.__cause__ or error)[:200],
                hint="export it again",
            ) from error
        names = self._net.get_info()["outputNames"]
        self._outputs = by_name(self.artifact, {name: place for place, name in enumerate(names)})
        self._type = self._expr.uint8 if spec.layout == "uint8-nhwc" else self._expr.float
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        # NCHW: the dimensions as the ONNX had them, whatever they mean. With NHWC, MNN moves them.
        image = self._expr.const(x, x.shape, self._expr.NCHW, self._type)
        found = self._net.onForward([image])
        return tuple(np.array(found[place].read(), np.float32) for place in self._outputs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net = self._runtime = None

    def details(self) -> dict[str, Any]:
        options = {"precision": PRECISIONS[self.artifact.precision], "backend": "CPU"}
        return {
            "runtime": self.name,
            "version": library().version(),
            "threads": self.threads,
            "options": options,
        }
