"""PyTorch -> .tflite (LiteRT, TensorFlow Lite), in fp32 or int8, by litert-torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdcompress import __version__
from kdcompress.artifact import Artifact, InputSpec, replacing
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.litert_file import FAMILIES, coverage
from kdcompress.export.litert_int8 import KERNELS, quantize
from kdcompress.export.quiet import native_errors
from kdcompress.export.run_litert import errors
from kdcompress.optional import require, require_installed

if TYPE_CHECKING:
    from torch import nn

CONVERSION_HINT = "an operator has no TFLite form, or the forward branches on values; other targets may take this model"
QUANTISATION_HINT = "the target litert-fp32 needs no quantiser; options.scheme.exclude keeps layers in float"
PACKAGES = ("litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert")


def library() -> ModuleType:
    return require("litert_torch", "litert", "A .tflite file")


def check() -> None:
    require_installed("litert_torch", "litert", "A .tflite file")


def write(job: ExportJob, target: Target) -> Artifact:
    """The batch is the input's, or 1 where that is dynamic: the converter knows no dynamic batch.

    Raises KDCompressError where the model cannot be converted, or where nothing of it is int8 in an int8 file.
    """
    spec = job.parent.input
    scheme = target.options.scheme
    if scheme is not None:
        scheme.held_to("LiteRT cannot quantise like this", **KERNELS)
    path = job.path(target, ".tflite")
    with _reported("litert-torch cannot convert this model.", job, CONVERSION_HINT):
        content = convert(job.module, spec)
    provenance: dict[str, Any] = {
        "batch": spec.batch or 1,
        "versions": {name: version(name) for name in ("torch", *PACKAGES)},
    }
    if scheme:
        with _reported("LiteRT's quantiser cannot quantise this model.", job, QUANTISATION_HINT):
            content = quantize(content, job, scheme)
        provenance["scheme"] = scheme.model_dump(mode="json")
        provenance["calibration_images"] = min(len(job.calibration), scheme.images)
    found = provenance["coverage"] = coverage(content)
    if scheme and not any(found[family]["int8"] for family in FAMILIES):
        raise KDCompressError(
            "No convolution or matrix product of this model is int8 in the .tflite file.",
            where=path.name,
            got=", ".join(f"{count} {name}" for name, count in found["nodes"].items()),
            hint="the target's scheme leaves them out; the target litert-fp32 does not need one",
        )
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        _add_facts(temporary, spec, target.precision)
    return Artifact.of(path, "litert", target.precision, spec, target=target.name, provenance=provenance)


def convert(module: nn.Module, spec: InputSpec) -> bytes:
    """The fp32 file. Its signature names input and outputs as ``spec`` does. The converter's errors are its own."""
    from kdcompress.models.deployable import example

    image = example(spec, batch=1)
    content: bytes = library().convert(_named(module, spec), sample_kwargs={spec.name: image}).model_content()
    return content


@contextmanager
def _reported(what: str, job: ExportJob, hint: str) -> Iterator[None]:
    """A library's chatter is not printed, its failure becomes a KDCompressError with the first cause and with what
    native code said about it."""
    with native_errors() as said:
        try:
            yield
        except KDCompressError:
            raise
        except Exception as error:  # a user's model can fail in any way
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            lines = [line.strip() for line in str(cause).splitlines() if line.strip()][:3]
            got = f"{type(cause).__name__}: {' | '.join([*lines, *errors(said())])}"[:600]
            raise KDCompressError(what, where=type(job.module).__name__, got=got, hint=hint) from error


def _named(module: nn.Module, spec: InputSpec) -> nn.Module:
    """A copy that takes and gives keyword arguments, which is where the converter gets the names from."""
    import torch

    from kdcompress.models.answers import outputs_of
    from kdcompress.models.copying import copied

    names = [output.name for output in spec.outputs]

    class Named(torch.nn.Module):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

        def forward(self, **images: torch.Tensor) -> dict[str, torch.Tensor]:
            return dict(zip(names, outputs_of(self.net(images[spec.name])), strict=True))

    return Named(_wide(copied(module), spec)).cpu().eval()


def _wide(module: nn.Module, spec: InputSpec) -> nn.Module:
    """With normalisation constants as wide as the image: the same numbers come out. XNNPACK multiplies and adds in
    runs as long as the constant, and a run of 3 channels is slow (0.6 ms instead of 0.05 ms for 224 x 224 pixels)."""
    from kdcompress.models.deployable import Deployable

    if isinstance(module, Deployable) and spec.layout == "uint8-nhwc" and spec.channels > 1:
        part = module.normalize
        part.scale = part.scale.expand(1, spec.channels, 1, spec.width).contiguous()
        part.bias = part.bias.expand(1, spec.channels, 1, spec.width).contiguous()
    return module


def _add_facts(path: Path, spec: InputSpec, precision: str) -> None:
    """Labels and input as files in a ZIP archive at the end of the file, which is where TensorFlow Lite keeps
    associated files: ``unzip model.tflite labels.txt``."""
    facts = {"kdcompress.version": __version__, "kdcompress.precision": precision, "kdcompress.input": spec.to_json()}
    files = {"labels.txt": "\n".join(spec.labels) + "\n", "kdcompress.json": json.dumps(facts, indent=1) + "\n"}
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # dated 1980: the same model gives the same file


for precision in ("fp32", "int8"):
    writers.register(f"litert-{precision}")(Writer(write, check, PACKAGES))
