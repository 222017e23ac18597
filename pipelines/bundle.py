"""What is sent to a device engineer: one artefact of a run in a folder that needs no kdcompress to be used."""

from __future__ import annotations

import gzip
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, clean_name, files_of, replacing, sha256
from kdcompress.bench import onnxruntime_web
from kdcompress.bench.machine import machine
from kdcompress.data.labels import match_labels
from kdcompress.data.source import Source, load
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.export import formats, graph
from kdcompress.export.calibrate import calibration_images
from kdcompress.export.run_ncnn import blobs
from kdcompress.export.tensorrt_builder import engine_source, portability
from kdcompress.ours import Ours
from kdcompress.pipelines import sbom, signing
from kdcompress.pipelines.measure import load_artifact
from kdcompress.pipelines.verify import SIGNATURE, SUMS
from kdcompress.recipe import Data, load_recipe
from kdcompress.report.markdown import plain
from kdcompress.report.present import headline, significant
from kdcompress.report.write import load_report
from kdcompress.runner import infer_all
from kdcompress.untrusted import what_it_says

TEMPLATES = Path(formats.__file__).parent / "bundle"
SAMPLE_OF = 64  # test images that the sample is chosen from
# Of the largest logit: other CPUs and versions add up in another order, and int8 rounds at other places.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.15}


@dataclass(frozen=True)
class Kind:
    """What is told of a format: its runtime, the template that runs it, and further files (name -> template, what it
    is)."""

    runtime: str
    package: str
    module: str
    infer: str
    licence: str
    files: Mapping[str, tuple[str, str]]
    also: str = ""  # packages that the runtime's own needs


MOBILE = "not compiled where this folder was made"


def _android(template: str) -> dict[str, tuple[str, str]]:
    return {"Classifier.kt": (template, f"for Android: {MOBILE}")}


def _ios(template: str) -> dict[str, tuple[str, str]]:
    return {"Classifier.swift": (template, f"for iOS: {MOBILE}")}


WEB = {
    "example.cpp": ("example.cpp", "the same with ONNX Runtime's C++ interface"),
    "CMakeLists.txt": ("CMakeLists.txt", "builds example.cpp"),
    "index.html": ("index.html", "the same in a browser: `python3 -m http.server`, then open it"),
    "classifier.mjs": ("classifier.mjs", "what index.html and Node.js run the model with"),
}
ORT = Kind("ONNX Runtime", "onnxruntime", "onnxruntime", "infer_onnx.py", "MIT", WEB | _android("onnx.kt"))
NVIDIA = {
    "example.cpp": ("tensorrt.cpp", f"the engine in C++: {MOBILE}"),
    "CMakeLists.txt": ("tensorrt.txt", "builds example.cpp"),
}
BUILDER = {"build_engine.py": ("build_engine.py", "builds the engine, on the machine that will run it")}
ENGINE = Kind(**{**vars(ORT), "files": BUILDER | NVIDIA})
KINDS = {
    "onnx": ORT,
    "ort": ORT,
    "openvino": Kind("OpenVINO", "openvino", "openvino", "infer_openvino.py", "Apache-2.0", {}),
    "executorch": Kind(
        "ExecuTorch",
        "executorch",
        "executorch",
        "infer_executorch.py",
        "BSD-3-Clause",
        _android("executorch.kt") | _ios("executorch.swift"),
        "torch",
    ),
    "litert": Kind(
        "LiteRT",
        "ai-edge-litert",
        "ai_edge_litert",
        "infer_litert.py",
        "Apache-2.0",
        _android("litert.kt") | _ios("litert.swift"),
    ),
    "ncnn": Kind("ncnn", "ncnn", "ncnn", "infer_ncnn.py", "BSD-3-Clause", {}),
    "mnn": Kind("MNN", "MNN", "MNN", "infer_mnn.py", "Apache-2.0", {}),
    "coreml": Kind(
        "Core ML",
        "coremltools",
        "coremltools",
        "infer_coreml.py",
        "part of Apple's systems",
        _ios("coreml.swift"),
        "pillow",
    ),
    "tensorrt-rtx": Kind(
        "TensorRT-RTX", "tensorrt-rtx", "tensorrt_rtx", "infer_tensorrt.py", "NVIDIA's own", NVIDIA, "torch"
    ),
    "tensorrt": Kind("TensorRT", "tensorrt", "tensorrt", "infer_tensorrt.py", "NVIDIA's own", NVIDIA, "torch"),
}
COMMON = {
    "model.json": "input, outputs, labels, runtime",
    sbom.NAME: "bill of materials: what is here and what it needs, with hashes and licences (CycloneDX)",
    "sample.png": "an image of the test split",
    "sample.bin": "the same as plain bytes, row by row, channels last",
    "expected.json": "the model's logits for it",
    "self_check.py": "whether this folder is whole and works here",
    "classifier.py": "the model as a Python object",
    "infer.py": "what runs it, for your own programs",
    "example.py": "classifies an image file",
}


def bundle(
    run: Path,
    names: Sequence[str] = (),
    output: Path | None = None,
    archive: bool = False,
    key: Path | None = None,
) -> list[Path]:
    """Write a folder for each of the run's targets named (none: for what the report says ships) below ``output``, and
    an archive beside it where asked for; signed where an ssh ``key`` is given. Returns what was written.

    Raises KDCompressError for an artefact that failed, UsageError for one that is damaged or not of this run.
    """
    if key:
        signing.check_key(key)
    document = load_report(run)
    damage = (run, "The report of this run is damaged.", "`kdcompress run` makes it again")
    with what_it_says(*damage):
        rows = [_row(document, name) for name in names] if names else [_ships(document)]
        source = _source(run, document)
        called = [clean_name(f"{document['name']}-{row['target'] or row['name']}") for row in rows]
    written = []
    for row, name in zip(rows, called, strict=True):
        folder = (output or run / "bundle") / name
        if folder.exists() and not (folder / SUMS).is_file():
            raise UsageError("This is no bundle, and it is not overwritten.", where=folder, hint="choose another -o")
        if folder.exists() and (others := _others(folder)):
            hint = "move them, or choose another -o"
            raise UsageError("It holds files that kdcompress did not write.", where=folder, got=others, hint=hint)
        if archive:
            Ours(folder.parent).check([f"{folder.name}.tar.gz"])
        with what_it_says(*damage), TemporaryDirectory() as scratch, replacing(folder) as temporary:
            artifact = (
                _artifact(run, document, row)
                if row["file"]
                else _for_tensorrt(run, document, row, source, Path(scratch))
            )
            _write(temporary, run, document, row, artifact, source)
            if key:
                signing.sign(temporary / SUMS, key)
        written.append(folder)
        if archive:
            written.append(_archive(folder))
    return written


def _others(folder: Path) -> str:
    """The files of a bundle that are not as its list says, some of them."""
    listed = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    names = {part.relative_to(folder).as_posix(): part for part in files_of(folder)}
    known = (SUMS, SIGNATURE)
    foreign = {name: part for name, part in names.items() if name not in known and "__pycache__" not in name}
    found = [name for name, part in foreign.items() if f"{sha256(part)}  {name}" not in listed]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


# What ships


def _ships(document: Mapping[str, Any]) -> Mapping[str, Any]:
    ship = headline(document)["ship"]
    if ship is None:
        hint = "see the report for what failed and why"
        raise KDCompressError("No artefact of this run may ship.", where=document["name"], hint=hint)
    return ship


def _row(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
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


def _artifact(run: Path, document: Mapping[str, Any], row: Mapping[str, Any]) -> Artifact:
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
    if artifact.format not in KINDS:
        raise UsageError("There is no bundle of this format.", got=artifact.format, allowed=", ".join(KINDS))
    return artifact


def _for_tensorrt(
    run: Path, document: Mapping[str, Any], row: Mapping[str, Any], source: Source, folder: Path
) -> Artifact:
    """The ONNX file that an engine is built from where its GPU is: TensorRT builds nowhere else."""
    from torch import nn

    parent = _artifact(run, document, _row(document, "student-fp32"))
    asked = formats.chosen(document["recipe"]["export"]["targets"])  # a file of the user's own among them
    target = next(target for target in asked if target.name == row["target"])
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


def _source(run: Path, document: Mapping[str, Any]) -> Source:
    data = Data.model_validate(document["recipe"]["data"])
    if data.public is not None:  # a report does not say where private images are
        data = load_recipe(run / "recipe.yaml").data
    source = load(data)
    if source.hash != document["data"]["hash"]:
        hint = "`kdcompress run` again, or put back the data it ran on"
        raise UsageError("The data are not those of the run.", where=source.origin, hint=hint)
    return source


# Its folder


def _write(
    folder: Path,
    run: Path,
    document: Mapping[str, Any],
    row: Mapping[str, Any],
    artifact: Artifact,
    source: Source,
) -> None:
    kind = ENGINE if artifact.provenance.get("engine") else KINDS[artifact.format]
    folder.mkdir()
    (shutil.copytree if artifact.path.is_dir() else shutil.copyfile)(artifact.path, folder / artifact.path.name)
    threads = document["recipe"]["bench"]["threads"]
    model = _model(document, row, artifact, kind, threads)
    image, expected = _sample(run, document, artifact, source, threads)
    texts = {name: _json(value) for name, value in (("model.json", model), ("expected.json", expected))}
    values = {
        "model": model,
        "document": document,
        "row": row,
        "bytes": artifact.bytes,
        "folder": artifact.path.is_dir(),
        "classes": _by_class(run, document, row, source),
        "test_images": len(source.test),
        "parent_accuracy": next((r["accuracy"] for r in document["rows"] if r["name"] == "student-fp32"), None),
        "latency": row["latency"] if (row["latency"] or {}).get("n") else None,
        "threads": threads,
        "limits": _limits(row, artifact),
        "pretrained": _pretrained(document),
        "licence": kind.licence,
        "ort_web": onnxruntime_web.VERSION,
        "workspace_mib": artifact.provenance.get("workspace_mib"),
        "engine": "../model.engine" if kind is ENGINE else artifact.path.name,
        "library": "tensorrt_rtx" if artifact.format == "tensorrt-rtx" else "nvinfer",
        "files": [
            (artifact.path.name, "the model"),
            *COMMON.items(),
            *((name, what) for name, (_, what) in kind.files.items()),
        ],
    }
    copied = {"infer.py": kind.infer, **{name: name for name in ("self_check.py", "classifier.py", "example.py")}}
    texts |= {name: (TEMPLATES / template).read_text(encoding="utf-8") for name, template in copied.items()}
    texts["MODEL_CARD.md"] = _filled("MODEL_CARD.md", values)
    texts |= {name: _filled(template, values) for name, (template, _) in kind.files.items()}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    (folder / "sample.bin").write_bytes(image.tobytes())
    _save_png(image, folder / "sample.png")
    web = onnxruntime_web.VERSION if "index.html" in kind.files else None
    bill = sbom.document(folder, model, kind.licence, web, document["data"]["licence"])
    (folder / sbom.NAME).write_text(_json(bill), encoding="utf-8", newline="\n")
    sums = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_of(folder)]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8", newline="\n")


def _model(
    document: Mapping[str, Any], row: Mapping[str, Any], artifact: Artifact, kind: Kind, threads: int
) -> dict[str, Any]:
    """model.json: what a program must know to run the artefact."""
    spec, provenance = artifact.input, artifact.provenance
    planes = spec.layout == "float-nchw" or artifact.format == "ncnn"  # ncnn takes planes of floats
    batch = 1 if artifact.format == "ncnn" else spec.batch
    if artifact.format in ("executorch", "litert", "coreml"):
        batch = spec.batch or 1  # they hold one fixed size
    shape = [spec.channels, spec.height, spec.width] if planes else [spec.height, spec.width, spec.channels]
    built_for = {
        key: provenance[key]
        for key in (
            *("compute_capabilities", "gpu", "profile", "minimum_deployment_target"),
            *("version_compatible", "hardware_compatibility", "refit"),
        )
        if provenance.get(key)
    }
    here = machine()
    runner = formats.runners.entries().get(provenance.get("runtime", ""))
    provider = getattr(runner, "accelerator", "")  # of ONNX Runtime, where the target names one
    package = runner.package if runner and provider else kind.package
    return {
        "name": document["name"],
        "file": artifact.path.name,
        "format": artifact.format,
        "precision": artifact.precision,
        "target": artifact.target,
        "sha256": artifact.sha256,
        "input": {
            "name": "in0" if artifact.format == "ncnn" else spec.name,
            "dtype": "float32" if planes else "uint8",
            "layout": "NCHW" if planes else "NHWC",
            "range": [0, 1 if spec.layout == "float-nchw" else 255],
            "shape": [batch, *shape],
            "height": spec.height,
            "width": spec.width,
            "channels": spec.channels,
            "colours": {1: "grey", 3: "RGB"}.get(spec.channels, f"{spec.channels} channels"),
            "normalisation": {"inside_the_model": True, "mean": spec.mean, "std": spec.std},
        },
        "outputs": [
            {
                "name": blobs(spec)[output.name] if artifact.format == "ncnn" else output.name,
                "dtype": "float32",
                "shape": [batch, *output.shape],
                "meaning": output.meaning,
            }
            for output in spec.outputs
        ],
        "labels": list(spec.labels),
        "runtime": {
            "name": kind.runtime,
            "version": _version(kind, provenance),
            "module": kind.module,
            "install": " ".join(["pip install", package, "numpy", *kind.also.split()]),
            "threads": threads,
            **({"providers": [provider, "CPUExecutionProvider"]} if provider else {}),
        },
        "built_for": built_for,
        "made_on": f"{here.get('cpu') or 'an unnamed CPU'} ({platform.machine()}, {platform.system()})",
        "recipe_hash": document["recipe_hash"],
        "kdcompress": document["kdcompress"],
    }


def _version(kind: Kind, provenance: Mapping[str, Any]) -> str | None:
    try:
        return version(kind.package)
    except PackageNotFoundError:
        versions = provenance.get("versions") or {}
        return versions.get(kind.package) or versions.get(kind.module)


def _sample(
    run: Path, document: Mapping[str, Any], artifact: Artifact, source: Source, threads: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """(image uint8 [H, W, C], expected.json): of the first test images, the one that is classified right with the
    widest margin, so that another CPU's rounding does not change the answer."""
    images, truth = source.test.images[:SAMPLE_OF], source.test.labels[:SAMPLE_OF]
    spec, by = artifact.input, artifact
    try:
        logits = _logits(artifact, images, threads)
    except RuntimeMissingError:
        parent = next((row for row in document["rows"] if row["name"] == "student-fp32" and row["file"]), None)
        if parent is None:
            raise
        by = _artifact(run, document, parent)
        logits = _logits(by, images, threads)
    if logits.shape[1] != spec.classes:
        got = f"{logits.shape[1]} logits"
        raise KDCompressError("The labels are not the model's.", where=by.path, got=got, allowed=f"{spec.classes}")
    ranked = np.sort(logits, axis=1)
    margin = ranked[:, -1] - (ranked[:, -2] if spec.classes > 1 else 0)
    numbers = match_labels(spec.labels, source.labels, artifact.path, source.name).numbers
    best = int(np.where(numbers[logits.argmax(1)] == truth, margin, -np.inf).argmax())
    expected = {
        "logits": [float(value) for value in logits[best]],
        "label": spec.labels[int(logits[best].argmax())],
        "true_label": source.labels[int(truth[best])],
        "tolerance": TOLERANCE[artifact.precision],
        "tolerance_is": "the largest difference of a logit, as a share of the largest logit",
        "by": f"{by.path.name}" if by is artifact else f"{by.path.name}, for {artifact.path.name} does not run here",
        "test_image": best,
    }
    return images[best], expected


def _logits(artifact: Artifact, images: np.ndarray, threads: int) -> np.ndarray:
    with formats.open_runner(artifact, threads=threads) as runner:
        return infer_all(runner, images, artifact.input)[0]


def _by_class(
    run: Path, document: Mapping[str, Any], row: Mapping[str, Any], source: Source
) -> list[dict[str, Any]] | None:
    """Accuracy of each class, by this very file on the test split; None where its answers were not kept."""
    stages = {stage["name"]: stage["key"] for stage in document.get("stages") or []}
    name = f"check-{row['name']}"
    found = sorted(run.glob(f"stages/{name}/{stages[name]}*/predictions.npy")) if name in stages else []
    if not found or row["accuracy"] is None:
        return None
    right, truth = np.load(found[0]) == source.test.labels, source.test.labels
    counts = np.bincount(truth, minlength=len(source.labels))
    correct = np.bincount(truth[right], minlength=len(source.labels))
    return [
        {"label": label, "n": int(n), "accuracy": 100.0 * int(k) / int(n) if n else None}
        for label, n, k in zip(source.labels, counts, correct, strict=True)
    ]


def _limits(row: Mapping[str, Any], artifact: Artifact) -> list[str]:
    found = []
    if artifact.precision == "int8":
        found.append("int8 arithmetic differs between CPUs: measure accuracy on the device that will run it.")
    if row["target"]:
        found.append(f"Made for: {formats.target(row['target']).description}." if _known(row["target"]) else "")
    if row["why"]:
        found.append(f"{row['status'].capitalize()}: {row['why']}")
    return [text for text in found if text]


def _known(name: str) -> bool:
    return name in formats.targets()


def _pretrained(document: Mapping[str, Any]) -> list[str]:
    recipe = document["recipe"]
    networks = [recipe.get("teacher"), recipe.get("student")]
    return sorted({network["model"] for network in networks if network and network.get("pretrained")})


def _filled(name: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=name.endswith(".html"),
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["digits"] = significant
    environment.filters["line"] = plain
    environment.filters["quoted"] = lambda text: json.dumps(" ".join(str(text).split()), ensure_ascii=False)
    return environment.get_template(f"{name}.j2").render(values)


def _save_png(image: np.ndarray, path: Path) -> None:
    """uint8 [H, W, C]; of other than 1 or 3 channels, the first as grey."""
    from PIL import Image

    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(path)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _archive(folder: Path) -> Path:
    """FOLDER.tar.gz, the same bytes for the same files."""
    path = folder.with_name(folder.name + ".tar.gz")
    with replacing(path) as temporary:
        with (
            temporary.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for part in files_of(folder):
                entry = tarfile.TarInfo(f"{folder.name}/{part.relative_to(folder).as_posix()}")
                entry.size, entry.mode = part.stat().st_size, 0o644  # owner 0, group 0 and time 0 are its defaults
                with part.open("rb") as content:
                    tar.addfile(entry, content)
        Ours(path.parent).expect({path.name: sha256(temporary)})
    return path
