"""ExecuTorch programs (.pte) on the CPU."""

from __future__ import annotations

import warnings
from types import ModuleType, TracebackType
from typing import Any, ClassVar

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.quiet import native_errors
from kdcompress.export.runtimes import runners
from kdcompress.optional import require, require_installed
from kdcompress.runner import by_name, joined


def library() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every import says that the API is experimental
        return require("executorch.runtime", "executorch", "Running a .pte file")


def check() -> None:
    require_installed("executorch", "executorch", "Running a .pte file")


@runners.register("executorch")
class ExecuTorchRunner:
    """The threads asked for and no more. A program takes the batch that it was written for, one image where the batch
    is dynamic: of more images, each is a call of its own.

    ExecuTorch has one pool of threads a process: UsageError where a program is loaded with another number of threads
    than one that is still open.
    """

    name = "executorch"
    format = "executorch"
    check = staticmethod(check)
    _open: ClassVar[int] = 0  # programs loaded in this process: they hold the pool

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._program: Any = None  # owns what the method runs
        self._execute: Any = None
        self._batch = artifact.input.batch or 1

    def __enter__(self) -> ExecuTorchRunner:
        path = self.artifact.path
        runtime = library()
        if not path.is_file():
            raise UsageError("There is no such .pte file.", where=path)
        self._take_threads()
        with native_errors() as log:
            try:
                self._program = runtime.Runtime.get().load_program(path)
                method = self._program.load_method("forward")
                self._batch = method.metadata.input_tensor_meta(0).sizes()[0]
            except (RuntimeError, KeyError, IndexError) as error:  # KeyError: a program without "forward"
                self._program = None
                raise UsageError(
                    "ExecuTorch cannot load this file.",
                    where=path,
                    got=" | ".join([*str(error).splitlines()[:1], *log()[-2:]])[:400],
                    hint="export it again with the ExecuTorch that is to run it",
                ) from error
        # A program has no names for what it gives: it gives it in the order of the module that it was exported from.
        places = zip(self.artifact.input.outputs, range(method.metadata.num_outputs()), strict=False)
        self._outputs = by_name(self.artifact, {output.name: place for output, place in places})
        self._execute = method.execute
        type(self)._open += 1
        return self

    def _take_threads(self) -> None:
        from executorch.extension.pybindings import portable_lib

        with native_errors():  # the pool's first use prints what it finds of the CPU
            current = portable_lib._threadpool_get_thread_count()
            if current == self.threads:
                return
            if self._open:  # a loaded program keeps a pointer to the pool that a reset would free
                raise UsageError(
                    "ExecuTorch has one thread pool per process, and it is in use with another number of threads.",
                    where=self.artifact.path,
                    got=f"{self.threads} threads",
                    allowed=current,
                    hint="measure with one number of threads at a time",
                )
            portable_lib._unsafe_reset_threadpool(self.threads)
            if portable_lib._threadpool_get_thread_count() != self.threads:
                raise KDCompressError("ExecuTorch does not take this number of threads.", got=self.threads)

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        import torch

        if len(x) % self._batch:
            raise UsageError(
                "The program takes whole batches only.", got=len(x), allowed=f"{self._batch} images per call"
            )
        parts = [self._execute((part,)) for part in torch.from_numpy(x).split(self._batch)]
        return joined([tuple(part[place].numpy() for place in self._outputs) for part in parts])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._execute = self._program = None
        type(self)._open -= 1

    def details(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "runtime": self.name,
            "version": version("executorch"),
            "threads": self.threads,
            "options": {"images_a_call": self._batch},
        }
