"""What of a run is bundled: rows of its report, each with its artefact, and the data they are about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact
from kdcompress.data.groups import in_order, numbered
from kdcompress.data.source import load
from kdcompress.data.splits import Source
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.export import formats, graph
from kdcompress.export.calibrate import calibration_images
from kdcompress.export.tensorrt_builder import engine_source, portability
from kdcompress.pipelines.bundle.kinds import KINDS
from kdcompress.pipelines.measure import load_artifact
from kdcompress.recipe import Data, Lifelong, load_recipe
from kdcompress.report.present import headline
from kdcompress.tasks import task_of_run


def ships(document: Mapping[str, Any]) -> Mapping[str, Any]:
    ship = headline(document)["ship"]
    if ship is None:
        hint = "see the report for what failed and why"
        raise KDCompressError("No artefact of this run may ship.", where=document["name"], hint=hint)
    return ship


def row_of(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The report's row of a target, or of that name. Raises KDCompressError where it may not ship."""
    rows = {row["target"] or row["name"]: row for row in document["rows"]}
    named = {row["name"]: row for row in document["rows"]}
    if name not in rows and name not in named:
        raise unknown_name("target in this run", name, rows, where="--target")
    row = rows.get(name) or named[name]
    if row["status"] == "failed":
        raise KDCompressError(f"{row['name']} failed and may not ship.", got=row["why"], hint=row["next"])
    if row["status"] == "skipped" and row["format"] != "tensorrt":
        raise RuntimeMissingError(f"{row['name']} was not built.", got=row["why"], hint=row["next"])
    return row


def artifact_of(run: Path, row: Mapping[str, Any]) -> Artifact:
    """The row's artefact, once it is shown to be what the report is about."""
    artifact = load_artifact(run / row["file"])
    if artifact.sha256 != row["sha256"]:
        raise UsageError(
            "The file is not the one in the report.",
            where=artifact.path,
            got=f"sha256 {artifact.sha256}",
            allowed=row["sha256"],
            hint="`kdcompress run` again",
        )
    if any(output.name == "labels" for output in artifact.input.outputs):
        raise _whole(artifact.path)
    if artifact.format not in KINDS:
        raise UsageError("There is no bundle of this format.", got=artifact.format, allowed=", ".join(KINDS))
    return artifact


def for_tensorrt(
    run: Path, document: Mapping[str, Any], row: Mapping[str, Any], source: Source, folder: Path
) -> Artifact:
    """The ONNX file that an engine is built from where its GPU is: TensorRT builds nowhere else."""
    from torch import nn

    parent = artifact_of(run, row_of(document, "student-fp32"))
    asked = formats.chosen(document["recipe"]["export"]["targets"])  # a file of the user's own among them
    target = next(target for target in asked if target.name == row["target"])
    if target.options.nms == "graph":
        raise _whole(target.name)
    images = calibration_images(source.train.images, document["recipe"]["export"]["calibration_images"])
    # An engine is built from the ONNX alone: the network itself is not needed.
    model = engine_source(formats.ExportJob(nn.Module(), parent, images, folder, "student"), target)
    graph.set_metadata(model, {"kdcompress.precision": target.precision})
    path = folder / f"student-{target.name}.onnx"
    graph.save(model, path)
    provenance = {
        "engine": True,
        "profile": list(target.options.profile),
        "workspace_mib": target.options.workspace_mib,
        **portability(target.options),
    }
    return Artifact.of(path, "onnx", target.precision, parent.input, target=target.name, provenance=provenance)


def _whole(where: object) -> UsageError:
    what, hint = "The file suppresses by itself, and a bundle's programs do that.", "with `nms: outside`"
    return UsageError(what, where=where, hint=f"bundle another target of the run, one {hint}")


def source_of(run: Path, document: Mapping[str, Any]) -> Source:
    data = Data.model_validate(document["recipe"]["data"])
    if data.public is not None:  # a report does not say where private images are
        data = load_recipe(run / "recipe.yaml").data
    source = load(data, task_of_run(document).truth)
    if lifelong := document["recipe"].get("lifelong"):
        groups = numbered(Lifelong.model_validate(lifelong).groups, source.labels)
        source = in_order(source, groups)
    if source.hash != document["data"]["hash"]:
        hint = "`kdcompress run` again, or put back the data it ran on"
        raise UsageError("The data are not those of the run.", where=source.origin, hint=hint)
    return source
