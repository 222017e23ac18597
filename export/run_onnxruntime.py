"""ONNX and .ort files on the CPU, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.export.runtimes import runners
from kdcompress.optional import is_installed


def check() -> None:
    if not is_installed("onnxruntime"):  # it comes with kdcompress, but not with a device's Python
        why = "Running an ONNX file needs the package 'onnxruntime'."
        raise RuntimeMissingError(why, hint="pip install onnxruntime")


@runners.register("onnxruntime-cpu")
class OnnxRuntimeRunner:
    """All graph optimisations, the threads asked for and no more, no spinning between calls with more than one."""

    name = "onnxruntime-cpu"
    format = "onnx"
    check = staticmethod(check)

    def __init__(self, artifact: Artifact, threads: int = 1):
        self.artifact, self.threads = artifact, threads
        self._session: Any = None

    def __enter__(self) -> OnnxRuntimeRunner:
        self._session = open_session(self.artifact.path, self.threads)
        return self

    def infer(self, x: np.ndarray) -> np.ndarray:
        spec = self.artifact.input
        logits: np.ndarray = self._session.run([spec.output], {spec.name: x})[0]
        return logits

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def details(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "runtime": self.name,
            "version": ort.__version__,
            "providers": self._session.get_providers() if self._session else ["CPUExecutionProvider"],
            "threads": self.threads,
            "options": {"graph_optimization": "all", "execution": "sequential", "spinning": False},
        }


@runners.register("onnxruntime-ort-cpu")
class OrtFormatRunner(OnnxRuntimeRunner):
    """The graph of an .ort file was optimised when the file was written, and is run as it is."""

    name = "onnxruntime-ort-cpu"
    format = "ort"


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


def open_session_of(model: Any, outputs: Iterable[str]) -> Any:
    """A CPU session that gives these tensors of a ModelProto, each once; the model stays as it is."""
    import onnx
    import onnxruntime as ort

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs))
    return ort.InferenceSession(part.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])


def open_session(path: Path, threads: int = 1, options: Any = None, without: tuple[str, ...] = ()) -> Any:
    """A CPU session, ``without`` some optimisers. Raises UsageError where the file cannot be loaded."""
    import onnxruntime as ort

    if not path.is_file():
        raise UsageError("There is no such model file.", where=path)
    try:
        return ort.InferenceSession(
            path,
            options or session_options(threads),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(without),
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        raise UsageError(
            "ONNX Runtime cannot load this file.",
            where=path,
            got=str(error).strip().splitlines()[0][:300],
            hint="`kdcompress inspect` shows what is in it; export it again",
        ) from error
