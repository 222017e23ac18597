"""The table of what can be built: targets are data files, writers and runners register themselves."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdcompress import strict_yaml
from kdcompress.artifact import Artifact, clean_name
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.export import regions
from kdcompress.export.runtimes import open_runner as open_runner
from kdcompress.export.runtimes import require_gpu as require_gpu
from kdcompress.export.runtimes import runners
from kdcompress.export.suppression import WITHOUT, appended, inside
from kdcompress.recipe import listed, shown
from kdcompress.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

TARGETS = Path(__file__).parent / "targets"
CALIBRATION_BATCH = 32
AUTO = "auto"
ENGINES = ["tensorrt", "tensorrt-rtx"]  # formats
PLATFORMS = {"arm": "arm64", "amd64": "x86_64"}  # options.platform -> cpus


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Scheme(Section):
    """How an int8 file is quantised. The right one depends on the machine: U8S8 for x86, S8S8 for
    ARM, symmetric S8 without integer biases for TensorRT."""

    activation: Literal["uint8", "int8"] = Field("uint8", description="Integer type of the activations.")
    weight: Literal["uint8", "int8"] = Field("int8", description="Integer type of the weights.")
    per_channel: bool = Field(
        True, description="Give each output channel of a weight its own scale. false: one scale for the whole weight."
    )
    reduce_range: bool = Field(default=False, description="Use 7 of the 8 bits of a weight, for x86 CPUs without VNNI.")
    symmetric: bool = Field(
        default=False, description="Give activations a range that is symmetric about 0 (zero point 0)."
    )
    quantize_bias: bool = Field(True, description="Store biases as integers too.")
    outputs: bool | Literal["convolutions"] = Field(
        default=True,
        description="Quantise the outputs of layers too, not only their inputs. convolutions: of those alone; a matrix "
        "product can give its sums as they are. For onnx and ort.",
    )
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "minmax", description="How the range of an activation is chosen from what the calibration images give."
    )
    percentile: float = Field(
        default=99.99,
        gt=50,
        le=100,
        description="For calibration percentile: per cent of the values that the range must hold.",
    )
    images: int = Field(default=512, ge=1, description="Number of calibration images, at most.")
    op_types: tuple[str, ...] = Field(default=(), description="Operators that are quantised. Default: all that can be.")
    bias_correction: bool = Field(
        default=False, description="Correct each layer's bias by the mean error that its quantisation makes."
    )
    exclude: tuple[str, ...] = Field(
        default=(),
        description="Layers that stay in float: module paths, such as net.fc, or names of nodes in the file.",
    )

    def held_to(self, why: str, **allowed: Any) -> None:
        """Raise UsageError, which names the key, unless each of these keys has the allowed value (one of them, where a
        list is given); ``why`` says in a few words what cannot be honoured."""
        for key, values in allowed.items():
            values = values if isinstance(values, list) else [values]
            if (got := getattr(self, key)) not in values:
                listed = ", ".join(map(str, values))
                raise UsageError(f"{why}: {key} {got}.", where=f"options.scheme.{key}", got=got, allowed=listed)


class Options(Section):
    """What only some formats ask for."""

    scheme: Scheme | None = Field(
        None, description="How an int8 file is quantised. It is given with precision int8, and only with it."
    )
    compute_capabilities: tuple[str, ...] = Field(
        default=(),
        description="TensorRT-RTX: compute capabilities of the GPUs that the engine is built for, such as '8.6'.",
    )
    profile: tuple[int, int, int] = Field(
        default=(1, 8, 32), description="TensorRT: smallest, usual and largest batch size."
    )
    platform: Literal["arm", "amd64"] | None = Field(
        default=None,
        description="ONNX Runtime: CPUs that an .ort file's graph is optimised for. For other files: CPUs "
        "whose kernels are counted.",
    )
    workspace_mib: int = Field(
        default=1024, ge=16, description="TensorRT: memory that a layer may use, at most, in MiB."
    )
    version_compatible: bool = Field(
        default=False, description="TensorRT: later versions of TensorRT can load the engine."
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none", description="TensorRT: GPUs that can run the engine, besides the kind that built it."
    )
    nms: Literal["outside", "graph"] = Field(
        default="outside",
        description="Detectors: where boxes that overlap a better one are removed. graph: inside the file, which then "
        "gives boxes [N, 100, 4], scores [N, 100] and labels [N, 100]. For onnx, openvino and tensorrt.",
    )
    refit: bool = Field(default=False, description="TensorRT: the engine can take the weights of another training.")

    @field_validator("profile")
    @classmethod
    def ordered(cls, profile: tuple[int, int, int]) -> tuple[int, int, int]:
        if not 1 <= profile[0] <= profile[1] <= profile[2]:
            raise ValueError("a profile is min <= opt <= max, from 1 up")
        return profile


class Target(Section):
    """Where the artefact will run and how."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the target.")
    description: str = Field(description="Where the file runs, in one line.")
    format: str = Field(description="Format of the file: onnx, openvino, litert, tensorrt-rtx and so on.")
    precision: Literal["fp32", "fp16", "int8"] = Field(description="Precision of the weights and of the arithmetic.")
    runtime: str = Field(description="Runtime that loads the file here to measure it.")
    options: Options = Field(Options(), description="What only some formats ask for.")
    cpus: tuple[Literal["x86_64", "arm64", "wasm"], ...] = Field(
        default=(), description="CPUs that the target is made for. Default: any."
    )
    instructions: tuple[str, ...] = Field(
        default=(),
        description="The CPU must have one of these instruction sets, named as in Linux's /proc/cpuinfo. "
        "Default: none is asked for.",
    )
    measured_on: str = Field(description="The machine on which this target's latency means something.")

    @model_validator(mode="after")
    def scheme_with_int8(self) -> Target:
        if (self.precision == "int8") != (self.options.scheme is not None):
            raise ValueError("options.scheme goes with precision int8, and only with it")
        return self

    @model_validator(mode="after")
    def platform_of_cpus(self) -> Target:
        cpu = PLATFORMS.get(self.options.platform or "")
        if cpu and self.cpus and set(self.cpus) != {cpu}:
            raise ValueError(f"options.platform {self.options.platform} is for {cpu}, and cpus are {list(self.cpus)}")
        return self

    @model_validator(mode="after")
    def options_of_engines(self) -> Target:
        takers = {"version_compatible": ["tensorrt"], "hardware_compatibility": ["tensorrt"], "refit": ENGINES}
        for name, formats in takers.items():
            if getattr(self.options, name) not in (False, "none") and self.format not in formats:
                raise ValueError(f"options.{name} is for {' and '.join(formats)}, and format is {self.format}")
        return self

    @model_validator(mode="after")
    def suppression_where_it_runs(self) -> Target:
        if self.options.nms == "graph" and self.format in WITHOUT:
            raise ValueError(f"options.nms graph: {WITHOUT[self.format]}. Leave it out: it is done outside the file")
        return self

    @property
    def writer(self) -> str:
        return f"{self.format}-{self.precision}"

    @property
    def timed_here(self) -> bool:
        """Whether latency on this machine's CPU is what the target is made for."""
        from kdcompress.bench.machine import cpu_flags

        return self.suits(platform.machine(), cpu_flags())

    def suits(self, architecture: str, instructions: Collection[str]) -> bool:
        """The same of a machine with this ``platform.machine()`` and these instruction flags, by Linux's names."""
        from kdcompress.bench.machine import cpu_family

        has = not self.instructions or not set(self.instructions).isdisjoint(instructions)
        return has and (not self.cpus or cpu_family(architecture) in self.cpus)


@dataclass
class ExportJob:
    """What a writer works from; every artefact of a run has the same parent. ``ranges``: a file that keeps what
    calibration found, for jobs whose schemes differ in nothing but what they leave in float."""

    module: nn.Module
    parent: Artifact  # fp32 ONNX
    calibration: np.ndarray  # uint8 [N, H, W, C] training images
    folder: Path
    stem: str  # of the file names
    ranges: Path | None = None

    def path(self, target: Target, suffix: str) -> Path:
        return self.folder / f"{self.stem}-{target.name}{suffix}"

    def batches(self, scheme: Scheme) -> Iterator[np.ndarray]:
        """The scheme's calibration images as the model takes them. Raises KDCompressError where they are too few."""
        spec, images = self.parent.input, self.calibration[: scheme.images]
        size = spec.batch or CALIBRATION_BATCH
        whole = len(images) - len(images) % size if spec.batch else len(images)
        if whole < 1:
            raise KDCompressError("There are too few calibration images.", got=len(images), allowed=f"{size} or more")
        return (spec.prepare(images[i : i + size]) for i in range(0, whole, size))


def nothing_missing() -> None:
    """The check of a writer that the core install is enough for."""


@dataclass(frozen=True)
class Writer:
    """``write`` makes the artefact; ``check`` raises RuntimeMissingError where it cannot do so here; the versions of
    ``packages`` shape the artefact, beyond those that make the ONNX it starts from. Every int8 writer takes paths of
    modules in a scheme's ``exclude``; one with ``nodes`` also the names of nodes, ONNX's, that this gives."""

    write: Callable[[ExportJob, Target], Artifact]
    check: Callable[[], None] = nothing_missing
    packages: tuple[str, ...] = ()
    nodes: Callable[[ExportJob, Scheme], Collection[str]] | None = None


# A writer is filed under "<format>-<precision>".
writers: Registry[Writer] = Registry("export format", "kdcompress.export", prefix="to_")


def load_target(path: Path) -> Target:
    """The target in a YAML file; its name is the file's. Raises UsageError that lists every problem."""
    data = strict_yaml.read(path, "target")
    try:
        found = Target.model_validate({"name": clean_name(path.stem), **data})
    except ValidationError as error:
        problems = listed([_problem(e) for e in error.errors()])
        raise UsageError(f"The target cannot be used:\n{problems}", where=path) from error
    for registry, name in ((writers, found.writer), (runners, found.runtime)):
        if name not in registry:
            raise unknown_name(registry.kind, name, registry, where=path)
    loads = [name for name, runner in runners.entries().items() if runner.format == found.format]
    if found.runtime not in loads:
        what = f"The runtime does not load the format {found.format}."
        raise UsageError(what, where=path, got=found.runtime, allowed=", ".join(loads))
    return found


def _problem(error: Any) -> str:
    key = ".".join(map(str, error["loc"])) or "target"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    got = "" if error["type"] in ("missing", "value_error") else f" (got {shown(error['input'])})"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}{got}"


@cache
def targets() -> dict[str, Target]:
    """Every target that comes with kdcompress, by name."""
    return {path.stem: load_target(path) for path in sorted(TARGETS.glob("*.yaml"))}


def target(name: str) -> Target:
    """The target of that name, or in that YAML file."""
    if name in targets():
        return targets()[name]
    if name.endswith((".yaml", ".yml")):
        return load_target(Path(name))
    raise unknown_name("target", name, targets())


def cpus_of(artifact: Artifact) -> tuple[str, ...]:
    """The processors that the artefact was made for; none: any, or its target is not one of kdcompress's."""
    found = targets().get(artifact.target or "")
    return found.cpus if found else ()


def chosen(names: Sequence[str]) -> list[Target]:
    """The targets of these names or files; "auto" is every one that builds, runs and is timed here.

    Raises UsageError for an unknown one and where two have the same name.
    """
    found: list[Target] = []
    for name in names:
        if name == AUTO:
            here = [each for each in targets().values() if each.timed_here and all(availability(each)[:2])]
            found += [each for each in here if each not in found]
        else:
            found.append(target(name))
    if len({each.name for each in found}) < len(found):
        listed = ", ".join(each.name for each in found)
        raise UsageError("Two targets have the same name.", where="export.targets", got=listed)
    return found


def build(job: ExportJob, target: Target) -> Artifact:
    """Write the target's artefact into the job's folder.

    Raises RuntimeMissingError where it cannot be built here, KDCompressError where building fails.
    """
    writer = writers[target.writer]
    writer.check()
    regions.check(job.parent, target.format, target.name)
    job.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    suppresses, where = target.options.nms == "graph", f"{target.name}: options.nms"
    if suppresses and target.format == "openvino":  # whose files take no ONNX nodes
        with inside(job.parent, job.folder, where) as whole:
            artifact = writer.write(replace(job, parent=whole), target)
    else:
        artifact = writer.write(job, target)
    if suppresses and target.format == "onnx":
        artifact = appended(artifact, where)
    seconds = round(time.perf_counter() - start, 3)
    facts = {"parent": job.parent.sha256, "runtime": target.runtime, "build_seconds": seconds}
    return artifact.with_provenance(**facts, host=platform.machine())


def availability(target: Target) -> tuple[bool, bool, str, str]:
    """(can build here, can run here, why not, what to do next); the texts are empty where both can."""
    missing = [_missing(writers[target.writer].check), _missing(runners[target.runtime].check)]
    lines = next((str(error).splitlines() for error in missing if error is not None), [""])
    facts = dict(line.strip().split(": ", 1) for line in lines[1:] if ": " in line)
    why = f"{lines[0]} ({facts['got']})" if "got" in facts else lines[0]
    return missing[0] is None, missing[1] is None, why, facts.get("next", "")


def _missing(check: Callable[[], None]) -> RuntimeMissingError | None:
    try:
        check()
    except RuntimeMissingError as error:
        return error
    return None
