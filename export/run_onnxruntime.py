"""ONNX and .ort files through ONNX Runtime, on the CPU or by the execution provider that a target names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import external_data
from kdcompress.export.runtimes import runners
from kdcompress.optional import is_installed
from kdcompress.runner import by_name

CPU = "CPUExecutionProvider"
PROVIDERS = {  # runtime of a target -> the execution provider, and the package that has it
    "onnxruntime-cann": ("CANNExecutionProvider", "onnxruntime-cann"),
    "onnxruntime-coreml": ("CoreMLExecutionProvider", "onnxruntime"),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "onnxruntime-directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "onnxruntime-migraphx": ("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "onnxruntime-openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "onnxruntime-qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "onnxruntime-webgpu": ("WebGpuExecutionProvider", "onnxruntime-webgpu"),
}


def check() -> None:
    if not is_installed("onnxruntime"):  # it comes with kdcompress, but not with a device's Python
        why = "Running an ONNX file needs the package 'onnxruntime'."
        raise RuntimeMissingError(why, hint="pip install onnxruntime")


@runners.register("onnxruntime-cpu")
class OnnxRuntimeRunner:
    """All graph optimisations, the threads asked for and no more, no spinning between calls with more than one."""

    name = "onnxruntime-cpu"
    format = "onnx"
    accelerator = ""  # the execution provider that is tried before the CPU's
    check = staticmethod(check)

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._session: Any = None

    def __enter__(self) -> OnnxRuntimeRunner:
        self._session = open_session(self.artifact.path, self.threads, provider=self.accelerator or CPU)
        self._outputs = by_name(self.artifact, {value.name: value.name for value in self._session.get_outputs()})
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(self._session.run(self._outputs, {self.artifact.input.name: x}))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def details(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "runtime": self.name,
            "version": ort.__version__,
            "providers": self._session.get_providers() if self._session else [self.accelerator or CPU],
            "threads": self.threads,
            "options": {"graph_optimization": "all", "execution": "sequential", "spinning": False},
        }


@runners.register("onnxruntime-ort-cpu")
class OrtFormatRunner(OnnxRuntimeRunner):
    """The graph of an .ort file was optimised when the file was written, and is run as it is."""

    name = "onnxruntime-ort-cpu"
    format = "ort"


def _accelerated(name: str, provider: str, package: str) -> None:
    """File a runner of this provider under ``name``."""

    def check_provider() -> None:
        check()
        import onnxruntime as ort

        if provider not in (here := ort.get_available_providers()):
            raise RuntimeMissingError(
                f"ONNX Runtime has no {provider} here.",
                got=", ".join(here),
                hint=f"pip install {package} in place of onnxruntime, on a machine that it is made for",
            )

    facts = {"name": name, "accelerator": provider, "package": package, "check": staticmethod(check_provider)}
    runners.register(name)(type(f"{provider}Runner", (OnnxRuntimeRunner,), facts))


for name, (provider, package) in PROVIDERS.items():
    _accelerated(name, provider, package)


def session_options(threads: int = 1) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return options


def open_session_of(model: Any, outputs: Iterable[str], threads: int = 1) -> Any:
    """A CPU session that gives these tensors of a ModelProto, each once; the model stays as it is."""
    import onnx
    import onnxruntime as ort

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs))
    return ort.InferenceSession(part.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"])


def open_session(
    path: Path, threads: int = 1, options: Any = None, without: tuple[str, ...] = (), provider: str = CPU
) -> Any:
    """A session on the CPU, or by ``provider`` with the CPU for what that does not take, ``without`` some optimisers.

    Raises UsageError where the file cannot be loaded, KDCompressError where ONNX Runtime leaves the provider out.
    """
    import onnxruntime as ort

    if not path.is_file():
        raise UsageError("There is no such model file.", where=path)
    try:
        session = ort.InferenceSession(
            path,
            options or session_options(threads),
            providers=list(dict.fromkeys((provider, CPU))),
            disabled_optimizers=list(without),
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        told = external_data.problem(path) if path.suffix == ".onnx" else None
        raise told or UsageError(
            "ONNX Runtime cannot load this file.",
            where=path,
            got=str(error).strip().splitlines()[0][:300],
            hint="`kdcompress inspect` shows what is in it; export it again",
        ) from error
    if provider not in (taken := session.get_providers()):  # it warns, and goes on without
        hint = "look at the driver and at the libraries that this provider needs"
        raise KDCompressError(f"ONNX Runtime does not use {provider}.", where=path, got=", ".join(taken), hint=hint)
    return session
