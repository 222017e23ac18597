"""TensorRT-RTX engines, on a GeForce or RTX GPU."""

from __future__ import annotations

from types import ModuleType

from kdcompress.export.runtimes import require_gpu, runners
from kdcompress.export.tensorrt_runner import EngineRunner
from kdcompress.optional import require


@runners.register("tensorrt-rtx")
class TensorRTRTXRunner(EngineRunner):
    name = format = "tensorrt-rtx"

    @staticmethod
    def library() -> ModuleType:
        return require("tensorrt_rtx", "tensorrt-rtx", "A TensorRT-RTX engine")

    @staticmethod
    def check() -> None:
        require("tensorrt_rtx", "tensorrt-rtx", "A TensorRT-RTX engine")
        require_gpu("a TensorRT-RTX engine runs on an NVIDIA GPU")
