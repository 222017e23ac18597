"""A file layer by layer, alone or beside another: what `kdcompress inspect --layers` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import kdcompress
from kdcompress.artifact import Artifact, InputSpec, sha256
from kdcompress.bench import layers as told
from kdcompress.bench.machine import machine
from kdcompress.bench.statistics import reproducible, unpaired_bootstrap, verdict
from kdcompress.bench.timing import POOL, pool_of
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import graph
from kdcompress.export.layers import readers
from kdcompress.export.made_of import MULTIPLY
from kdcompress.export.peak import peak
from kdcompress.export.runtimes import runner_of
from kdcompress.layers import Layer, Profile
from kdcompress.pipelines.measure import any_artifact, facts_of, load_images, real_images

LONGEST = 300  # characters of a runtime's message
NUMBER = re.compile(r"(_token)?_\d+")  # in a name
ON_CPU = ("fp32", "int8")  # precisions whose peak is measured
OTHER_PARENT = "By its record {} was not made from --parent: where that is another network, names and errors are wrong."
NO_PARENT = "The fp32 file that {} was made from is not beside it, so errors are not told: --parent names it."


@dataclass(frozen=True)
class Read:
    """A file that was read. ``main``: the nodes of its parent that multiply."""

    artifact: Artifact
    parent: Artifact | None
    profile: Profile
    main: Collection[str]


def inspect_layers(
    file: Path,
    against: Path | None = None,
    queries: int = 128,
    threads: int = 1,
    parent: Path | None = None,
    source: str | None = None,
    root: Path | None = None,
    *,
    command: str = "",
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> dict[str, Any]:
    """The document of a file, and where there is another one what is faster, slower or as fast in the first.

    Raises UsageError for files that cannot be read layer by layer, or take other images than the first,
    RuntimeMissingError where a runtime is not installed.
    """
    if root is not None and source is None:
        raise UsageError("--root needs --data.", where="--root")
    artifacts = [any_artifact(path) for path in (file, against) if path is not None]
    for artifact in artifacts:
        _reader(artifact)
    spec = artifacts[0].input
    for other in artifacts[1:]:
        _alike(spec, other)
    named = _named_parent(parent, spec) if parent is not None else None
    parents = [named or parent_of(artifact) for artifact in artifacts]
    images, notes = _images(artifacts, source, root)
    turns = [0, 1, 1, 0] if against else [0]  # so that a slow half of the session is no file's alone
    parts: list[list[Profile]] = [[] for _ in artifacts]
    for done, which in enumerate(turns):
        artifact = artifacts[which]
        progress(done / (len(turns) + 1), f"reading {artifact.path.name}")
        asked = _queries(artifact.input, images, -(-queries // (2 if against else 1)), seed=len(parts[which]))
        parts[which].append(_profile(artifact, asked, threads, parents[which]))
    progress(len(turns) / (len(turns) + 1), "measuring the machine's peak")
    reads = [
        Read(artifact, above, _joined(each), _main(above or artifact))
        for artifact, above, each in zip(artifacts, parents, parts, strict=True)
    ]
    best = peak(threads) if any(_on_cpu(artifact) for artifact in artifacts) else {}
    notes += [OTHER_PARENT.format(read.artifact.path.name) for read in reads if named and _of_another(read)]
    notes += [NO_PARENT.format(read.artifact.path.name) for read in reads if _lacks_parent(read)]
    return {
        "kdcompress": kdcompress.__version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "inputs": source or "random pixels",
        "files": [_document(read, best if _on_cpu(read.artifact) else {}) for read in reads],
        "comparison": _comparison(*reads) if against else None,
        "machine": machine(),
        "notes": list(dict.fromkeys(notes)),
    }


def parent_of(artifact: Artifact) -> Artifact | None:
    """The fp32 ONNX file that this one was made from, where it is in the same folder; of a file that was made from
    none, that file."""
    made_from = artifact.provenance.get("parent")
    if made_from is None:
        return artifact if artifact.format == "onnx" and artifact.precision == "fp32" else None
    for path in sorted(artifact.path.parent.glob("*.onnx")):
        if path.is_file() and sha256(path) == made_from:
            return any_artifact(path)
    return None


def _named_parent(path: Path, spec: InputSpec) -> Artifact:
    found = any_artifact(path)
    if found.format != "onnx" or found.precision != "fp32":
        got = f"{path}: {found.precision} {found.format}"
        raise UsageError("A parent is an fp32 ONNX file.", where="--parent", got=got, allowed="the fp32 ONNX file")
    _alike(spec, found)
    return found


def _alike(spec: InputSpec, other: Artifact) -> None:
    shapes = [(each.height, each.width, each.channels) for each in (spec, other.input)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            "The files take images of different sizes.", where=other.path, got=shapes[1], allowed=shapes[0]
        )


def _reader(artifact: Artifact) -> Any:
    name = runner_of(artifact).name
    if name not in readers:
        raise UsageError(
            "This runtime does not say what its layers take.",
            where=artifact.path,
            got=name,
            allowed="files of " + ", ".join(readers),
            hint="`kdcompress bench` measures the whole file",
        )
    return readers[name]


def _on_cpu(artifact: Artifact) -> bool:
    return not getattr(runner_of(artifact), "accelerator", "") and not artifact.format.startswith("tensorrt")


def _images(artifacts: Sequence[Artifact], source: str | None, root: Path | None) -> tuple[np.ndarray, list[str]]:
    """uint8 [N, H, W, C], and what is to be said of them."""
    spec = artifacts[0].input
    if source:
        named = {artifact.path.name: artifact for artifact in artifacts}
        images, notes = real_images(named, load_images(source, root, None, None, spec))
        return images, notes
    shape = (POOL, spec.height, spec.width, spec.channels)
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, shape, dtype=np.uint8), []


def _queries(spec: InputSpec, images: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """So many queries as the file takes them, drawn as `kdcompress bench` draws them."""
    pool = pool_of(spec, images, seed, spec.batch or 1)
    return [pool[i % len(pool)] for i in range(count)]


def _profile(artifact: Artifact, queries: list[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """What a runtime raises is the file's fault: a runtime's own errors have no common type."""
    try:
        found: Profile = _reader(artifact)(artifact, queries, threads, parent)
    except (KDCompressError, OSError, MemoryError):
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]
        raise KDCompressError("The file cannot be read layer by layer.", where=artifact.path, got=got) from error
    if not found.layers:
        raise KDCompressError("The runtime's profiler gave no layer.", where=artifact.path, got=found.runtime)
    return found


def _joined(parts: Sequence[Profile]) -> Profile:
    """Two sessions of a file as one; the first alone where the runtime made other layers of it the second time.
    Some runtimes number layers anew each time."""
    first = parts[0]
    alike = [list(map(_unnumbered, part.layers)) for part in parts]
    if any(each != alike[0] for each in alike):
        note = "The runtime made other layers of the file when it was loaded again: one session is shown."
        return replace(first, notes=(*first.notes, note))
    layers = [
        replace(layer, times=np.concatenate([part.layers[i].times for part in parts]))
        for i, layer in enumerate(first.layers)
    ]
    return replace(first, layers=tuple(layers), whole=np.concatenate([part.whole for part in parts]))


def _unnumbered(layer: Layer) -> tuple[str, str, tuple[str, ...]]:
    return NUMBER.sub("", layer.name), layer.kind, layer.made_of


def _main(onnx: Artifact) -> list[str]:
    if onnx.format != "onnx":
        return []
    return [node.name for node in graph.load_named(onnx.path).graph.node if node.op_type in MULTIPLY]


def _lacks_parent(read: Read) -> bool:
    return read.parent is None and read.artifact.provenance.get("parent") is not None


def _of_another(read: Read) -> bool:
    made_from = read.artifact.provenance.get("parent", read.artifact.sha256)
    return read.parent is not None and made_from != read.parent.sha256


def _document(read: Read, best: dict[str, float]) -> dict[str, Any]:
    artifact, profile = read.artifact, read.profile
    return {
        **facts_of(artifact),
        "parent": str(read.parent.path) if read.parent is not None else None,
        "graph": _graph_name(read),
        **told.summary(profile, best, read.main),
        "stayed_float": told.stayed_float(profile, read.main),
        "falls": told.falls(profile, read.main),
        "multiply": [layer.name for layer in profile.layers if told.multiplies(layer)],
    }


def _graph_name(read: Read) -> str | None:
    """Of the ONNX graph whose nodes the layers are made of: Model Explorer finds it by that."""
    onnx = read.parent or read.artifact
    return graph.load(onnx.path).graph.name if onnx.format == "onnx" else None


def _comparison(mine: Read, other: Read) -> dict[str, Any]:
    main = {*mine.main, *other.main}
    ratio, low, high = unpaired_bootstrap(mine.profile.whole, other.profile.whole)
    return {
        "whole": {"ratio": ratio, "low": low, "high": high, "verdict": verdict(*reproducible(low, high))},
        "groups": told.changes(mine.profile, other.profile, main),
        "alone": [told.alone(mine.profile, other.profile), told.alone(other.profile, mine.profile)],
    }
