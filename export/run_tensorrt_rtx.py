"""TensorRT-RTX engines, on a GeForce or RTX GPU."""

from __future__ import annotations

from types import ModuleType

from kdcompress.errors import RuntimeMissingError
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
        trt = require("tensorrt_rtx", "tensorrt-rtx", "A TensorRT-RTX engine")
        check_supported(trt, require_gpu("a TensorRT-RTX engine runs on an NVIDIA GPU"))


def check_supported(trt: ModuleType, gpu: dict[str, str]) -> None:
    """Raises RuntimeMissingError for a GPU that this TensorRT-RTX has no kernels for, such as those of data centres."""
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if "SM" + gpu["compute_capability"].replace(".", "") not in known:
        raise RuntimeMissingError(
            f"TensorRT-RTX {trt.__version__} does not run on this GPU.",
            got=f"{gpu['name']}, compute capability {gpu['compute_capability']}",
            allowed=", ".join(f"{name[2:-1]}.{name[-1]}" for name in known),
            hint="build the target tensorrt there, with the package tensorrt",
        )
