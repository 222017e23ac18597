"""Runs engines of TensorRT and TensorRT-RTX: their Python interfaces are the same here."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError, RuntimeMissingError
from kdcompress.export.tensorrt_builder import kept_log
from kdcompress.export.tensorrt_engine import information, load_engine
from kdcompress.runner import by_name, joined


class EngineRunner(ABC):
    """Deserialises an engine onto the current CUDA device; buffers are torch CUDA tensors.

    A call's time includes copying its input to the device and its outputs back. Batches above the
    profile's largest are run in parts.
    """

    name: str
    format: str

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._context: Any = None
        self._facts: dict[str, Any] = {}

    @staticmethod
    @abstractmethod
    def library() -> ModuleType:
        """tensorrt or tensorrt_rtx."""

    def __enter__(self) -> EngineRunner:
        import torch

        if not torch.cuda.is_available():
            raise RuntimeMissingError(
                "No CUDA device: PyTorch, which holds the engine's buffers, sees none.",
                got=f"torch {torch.__version__}",
                hint="install a CUDA build of PyTorch on a machine with an NVIDIA GPU",
            )
        trt = self.library()
        spec = self.artifact.input
        log = kept_log(trt)
        start = time.perf_counter()
        compatible = bool(self.artifact.provenance.get("version_compatible"))
        self._engine = load_engine(trt, self.artifact.path.read_bytes(), log, self.artifact.path, compatible)
        loaded = time.perf_counter()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise KDCompressError(f"{trt.__name__} cannot prepare this engine.", got=" | ".join(log.lines[:3]) or None)
        named = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        by_name(self.artifact, {name: name for name in named if name != spec.name})
        self._stream = torch.cuda.Stream()
        least, _, most = self._engine.get_tensor_profile_shape(spec.name, 0)
        self._least, self._most = int(least[0]), int(most[0])
        self._facts = {
            "version": trt.__version__,
            "device": torch.cuda.get_device_name(),
            "deserialize_ms": round((loaded - start) * 1e3, 2),
            "context_ms": round((time.perf_counter() - loaded) * 1e3, 2),  # TensorRT-RTX compiles kernels here
        }
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return joined([self._infer(x[start : start + self._most]) for start in range(0, len(x), self._most)])

    def _infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        import torch

        spec, n = self.artifact.input, len(x)
        if n < self._least:
            x = np.concatenate([x, np.repeat(x[-1:], self._least - n, axis=0)])
        with torch.cuda.stream(self._stream):
            image = torch.from_numpy(np.ascontiguousarray(x)).cuda()
            outputs = [torch.empty((len(x), *o.shape), dtype=torch.float32, device="cuda") for o in spec.outputs]
            self._context.set_input_shape(spec.name, tuple(x.shape))
            self._context.set_tensor_address(spec.name, image.data_ptr())
            for output, buffer in zip(spec.outputs, outputs, strict=True):
                self._context.set_tensor_address(output.name, buffer.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise KDCompressError("The engine failed to run.", where=self.artifact.path, got=f"batch {len(x)}")
            return tuple(buffer.cpu().numpy()[:n] for buffer in outputs)

    def report_to(self, profiler: Any) -> None:
        """Have each call report the times of its layers to an IProfiler; it then waits for them."""
        self._context.profiler = profiler

    def information(self, images: int) -> dict[str, Any]:
        """What the engine inspector says, for a query of so many images, or of as many as run at once."""
        return information(self.library(), self._engine, min(max(images, self._least), self._most))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context = self._engine = None

    def details(self) -> dict[str, Any]:
        return {"runtime": self.name, "timed": "copy in, compute, copy out", **self._facts}
