"""A network's fp32 ONNX file: what ships where nothing smaller does, and what every other artefact is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcompress.artifact import sha256
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.timm_places import without_place
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, named
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.answers import threshold
from kdcompress.pipelines.steps.names import StepName, exported, recorded, trained, weights_of


@dataclass(frozen=True)
class OnnxStep(Step):
    networks: Networks
    role: Role

    @property
    def name(self) -> StepName:
        return exported(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        return (trained(self.role),)

    @property
    def may_fail(self) -> bool:
        return self.role == "teacher"

    def key(self, inputs: Inputs) -> Key:
        export = self.networks.recipe.export
        params = {"layout": export.layout, "batch": export.batch, "opset": export.opset, "branches": "merged"}
        if export.outputs != "logits":
            params["outputs"] = export.outputs
        hashes = {self.role: inputs[trained(self.role)].hash}
        if self._chooses:
            params |= {"threshold": self.networks.recipe.threshold, **self.networks.figure_key}
            hashes["data"] = self.networks.source_of(self.role).hash
        return Key(params, hashes, ("torch", "onnx", "onnxscript"))

    @property
    def _chooses(self) -> bool:
        """Whether a threshold ships with it."""
        return self.networks.recipe.threshold == "validation"

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        networks, role, weights = self.networks, self.role, weights_of(inputs)
        metadata = {
            "recipe": networks.recipe.name,
            "role": role,
            "model": without_place(named(networks.parts[role].network)),
            "source_hash": networks.source_of(role).hash,
            "normalisation": networks.normalisation(role)[2],
            # of the file alone: the step's hash is one of the teachers' data too
            "weights": sha256(weights[role] / "weights.safetensors"),
        }
        net = networks.network(role, weights)
        chosen = threshold(networks, role, net) if self._chooses else None
        module = networks.deployable(role, net, chosen.share if chosen else None)
        path, opset = folder / f"{role}.onnx", networks.recipe.export.opset
        made = recorded(export_onnx(module, module.spec, path, opset=opset, metadata=metadata))
        return made | ({"threshold": vars(chosen)} if chosen else {})
