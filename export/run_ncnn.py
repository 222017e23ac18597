"""ncnn models on the CPU. Images are fed one by one: ncnn has no batches."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.runtimes import runners
from kdcompress.optional import require, require_installed
from kdcompress.runner import by_name

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
PIXELS = {1: "PIXEL_GRAY", 3: "PIXEL_RGB", 4: "PIXEL_RGBA"}  # by channels
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")


def check() -> None:
    require_installed("ncnn", "ncnn", "Running an ncnn model")


def blobs(spec: InputSpec) -> dict[str, str]:
    """The names that pnnx gives the outputs: it numbers them in the order in which the module returns them."""
    return {output.name: f"out{i}" for i, output in enumerate(spec.outputs)}


@runners.register("ncnn")
class NcnnRunner:
    """An fp32 model is computed in fp32; with fp16, the options are ncnn's own, which use fp16 where the CPU has it."""

    name = "ncnn"
    format = "ncnn"
    check = staticmethod(check)

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._net: Any = None

    def __enter__(self) -> NcnnRunner:
        self._ncnn = require("ncnn", "ncnn", "Running an ncnn model")
        spec = self.artifact.input
        net = self._ncnn.Net()
        net.opt.num_threads = self.threads
        net.opt.use_vulkan_compute = False
        if self.artifact.precision == "fp32":
            for option in HALF:
                setattr(net.opt, option, False)
        for name, load in ((PARAM, net.load_param), (BIN, net.load_model)):
            path = self.artifact.path / name
            if not path.is_file():
                raise UsageError("There is no such file of an ncnn model.", where=path)
            if load(str(path)):
                raise UsageError("ncnn cannot load this file.", where=path, hint="export it again")
        self._options = {option: getattr(net.opt, option) for option in HALF}
        self._type = getattr(self._ncnn.Mat.PixelType, PIXELS[spec.channels]) if spec.layout == "uint8-nhwc" else None
        there = net.output_names()
        self._blobs = by_name(self.artifact, {name: blob for name, blob in blobs(spec).items() if blob in there})
        self._net = net
        return self

    def extractor(self, image: np.ndarray) -> Any:
        """ncnn's, of one of the images that ``infer`` takes."""
        spec, Mat = self.artifact.input, self._ncnn.Mat
        planes = Mat(image) if self._type is None else Mat.from_pixels(image, self._type, spec.width, spec.height)
        extractor = self._net.create_extractor()
        extractor.input("in0", planes)
        return extractor

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs = tuple(np.empty((len(x), *output.shape), np.float32) for output in self.artifact.input.outputs)
        for i, image in enumerate(x):
            extractor = self.extractor(image)
            for blob, output in zip(self._blobs, outputs, strict=True):
                failed, found = extractor.extract(blob)
                if failed:
                    what = "ncnn cannot run this model."
                    raise KDCompressError(what, where=self.artifact.path, got=f"status {failed}")
                output[i] = found.numpy()
        return outputs

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net = None

    def details(self) -> dict[str, Any]:
        ncnn = require("ncnn", "ncnn", "Running an ncnn model")
        options = {"batch": "images one by one", **(self._options if self._net else {})}
        return {"runtime": self.name, "version": ncnn.__version__, "threads": self.threads, "options": options}
