"""TensorRT engines, on the kind of GPU they were built on."""

from __future__ import annotations

from types import ModuleType

from kdcompress.export.runtimes import require_gpu, runners
from kdcompress.export.tensorrt_runner import EngineRunner
from kdcompress.optional import require


@runners.register("tensorrt")
class TensorRTRunner(EngineRunner):
    name = format = "tensorrt"

    @staticmethod
    def library() -> ModuleType:
        return require("tensorrt", "tensorrt", "A TensorRT engine")

    @staticmethod
    def check() -> None:
        require("tensorrt", "tensorrt", "A TensorRT engine")
        require_gpu("a TensorRT engine runs on an NVIDIA GPU")
