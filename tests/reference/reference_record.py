"""What is recorded of a reference network's file: its score, how near it is to its fp32 parent, size and coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.numpy_helper import to_array
from reference_data import Fixed, fixed
from reference_files import read, weights_path
from safetensors.torch import load_file

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.export.formats import ExportJob, Target, availability, build, open_runner
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import answer_of, shipped
from kdcompress.models.build import build as build_network
from kdcompress.models.deployable import Deployable
from kdcompress.runner import infer_all
from kdcompress.task import Outputs, Task
from kdcompress.tasks import tasks

MOVED = ("Reorder", "ReorderInput", "ReorderOutput")  # nodes that suit a processor's vectors: not the same on all


@dataclass(frozen=True)
class Reference:
    """A network with its trained weights, as it ships, its fp32 ONNX file in ``folder``, and what that answers."""

    name: str
    task: Task
    module: Deployable
    parent: Artifact
    fixed: Fixed
    folder: Path

    @property
    def spec(self) -> InputSpec:
        return self.parent.input

    @property
    def dense(self) -> bool:
        """Whether its score is no share of images."""
        return self.fixed.truth.ndim > 1

    @cached_property
    def expected(self) -> Outputs:
        return self.answers(self.parent)

    def answers(self, artifact: Artifact) -> Outputs:
        """Raw outputs to the fixed images, by the file in its own runtime."""
        with open_runner(artifact) as runner:
            return infer_all(runner, self.fixed.images, artifact.input)

    def built(self, target: Target) -> Artifact:
        job = ExportJob(self.module, self.parent, self.fixed.calibration, self.folder, self.name)
        return build(job, target)


def reference(name: str, data: Path, folder: Path) -> Reference:
    """``data`` is the folder of Fashion-MNIST; the network's files go into ``folder``."""
    made = read(name)["made"]
    recipe, images = made["recipe"], fixed(made["images"], data)
    task, labels = tasks[recipe["task"]], tuple(made["labels"])
    _, height, width, channels = images.images.shape
    net = build_network(recipe["model"], len(labels), channels, recipe.get("options"))
    stored = {key: value.float() for key, value in load_file(weights_path(name)).items()}
    lacking = set(net.load_state_dict(stored, strict=False).missing_keys)
    assert all(key.endswith("num_batches_tracked") for key in lacking), sorted(lacking)
    with torch.no_grad():
        shapes = [
            tuple(out.shape[1:]) for out in shipped(answer_of(net.eval()(torch.zeros(1, channels, height, width))))
        ]
    outputs = task.outputs(labels, shapes)
    spec = InputSpec(
        height, width, channels, tuple(made["mean"]), tuple(made["std"]), labels, task=task.name, outputs=outputs
    )
    module = Deployable(net, spec).eval()
    folder.mkdir(parents=True, exist_ok=True)
    return Reference(name, task, module, export_onnx(module, spec, folder / f"{name}.onnx"), images, folder)


def record_of(its: Reference, target: Target | None, artifact: Artifact | None = None) -> dict[str, Any]:
    """Of the file for a target, or of its parent, which is compared with PyTorch. ``artifact``: the file, where it is
    built already. Where no runtime loads it here, there are its size and coverage alone."""
    artifact = artifact or (its.built(target) if target else its.parent)
    found: dict[str, Any] = {"format": artifact.format, "precision": artifact.precision, "bytes": artifact.bytes}
    found["coverage"] = covered(artifact.provenance.get("coverage") or {})
    found["versions"] = {**its.parent.provenance["versions"], **artifact.provenance["versions"]}
    if artifact.format == "onnx" and artifact.precision == "int8":
        found["rounding"] = rounding(its.parent.path, artifact.path)
    if target and not availability(target)[1]:
        return found
    with open_runner(artifact) as runner:
        got = infer_all(runner, its.fixed.images, its.spec)
        details = runner.details()
    found["versions"]["runtime"] = f"{details['runtime']} {details['version']}"
    if target is None:
        with TorchRunner(its.module, its.spec) as torch_runner:
            expected = infer_all(torch_runner, its.fixed.images, its.spec)
    else:
        expected = its.expected
    return {**found, **judged(its, expected, got)}


def judged(its: Reference, expected: Outputs, got: Outputs) -> dict[str, Any]:
    """Score and agreement in per cent; of the outputs, where there are several the one that differs most, but the gain
    of each:

    - ``worst``: the largest difference as a share of the largest value;
    - ``error``: the root of the mean squared difference, as a share of that of the values about their mean;
    - ``gain``: the slope of the outputs on the parent's. Rounding makes errors of both signs, which leave it near 1;
      a wrong scale turns it.
    """
    task, size = its.task, (its.spec.height, its.spec.width)
    kept = [task.kept(outputs, size) for outputs in (expected, got)]
    pairs = [(e.astype(np.float64), g.astype(np.float64)) for e, g in zip(expected, got, strict=True)]
    return {
        "score": round(float(task.score(kept[1], its.fixed.truth)), 3),
        "agreement": round(float(task.agreement(task.answers(kept[0]), task.answers(kept[1]))), 3),
        "worst": rounded(max(np.abs(e - g).max() / np.abs(e).max() for e, g in pairs)),
        "error": rounded(max(np.sqrt(((e - g) ** 2).mean() / e.var()) for e, g in pairs)),
        "gain": [round(slope(*pair), 5) for pair in pairs],
    }


def rounding(parent: Path, path: Path) -> float:
    """The largest difference between a weight of the parent's and the same one as the int8 ONNX file has it, in steps
    of its scale: 0.5, where scales are right."""
    weights = {tensor.name: to_array(tensor) for tensor in onnx.load(parent).graph.initializer}
    graph = onnx.load(path).graph
    stored = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    found = [0.0]
    for node in graph.node:
        name = node.input[0].removesuffix("_quantized")
        if node.op_type != "DequantizeLinear" or name not in weights or node.input[0] not in stored:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        weight, (scale, zero) = weights[name], (stored[each] for each in node.input[1:3])
        if scale.ndim:
            shape = [-1 if k == axis % weight.ndim else 1 for k in range(weight.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        integers = stored[node.input[0]].astype(np.float64) - zero
        found.append(float(np.abs(weight / scale.astype(np.float64) - integers).max()))
    return round(max(found), 3)


def slope(expected: np.ndarray, got: np.ndarray) -> float:
    centred = expected - expected.mean()
    return float((centred * (got - got.mean())).sum() / (centred**2).sum())


def rounded(value: float) -> float:
    return float(f"{value:.3g}")


def covered(coverage: Mapping[str, Any]) -> dict[str, Any]:
    """Of a coverage what is comparable between formats and processors: ``layers`` and ``weights`` by precision, and how
    much is left beside: ``nodes`` (fewer where more is fused), ``leftover`` (that only quantise or dequantise),
    ``outside`` (what a delegate does not run). Of an fp32 ONNX file there is none."""
    layers: Counter[str] = Counter()
    for family in ("conv", "gemm"):
        layers.update(coverage.get(family, {}))
    found: dict[str, Any] = {"layers": {kind: count for kind, count in layers.items() if count}} if coverage else {}
    if "weights" in coverage:
        found["weights"] = dict(coverage["weights"])
    kinds = next((coverage[key] for key in ("nodes", "operators", "layers") if isinstance(coverage.get(key), dict)), {})
    if kinds:
        found["nodes"] = sum(count for kind, count in kinds.items() if kind.split()[0] not in MOVED)
    if "outside" in coverage:
        found["outside"] = sum(coverage["outside"].values())
    return found | ({"leftover": coverage["leftover"]} if "leftover" in coverage else {})
