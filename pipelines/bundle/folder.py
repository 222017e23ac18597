"""A bundle's folder: the artefact, what is said of it, and the programs that run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact, copy_to, files_of, sha256
from kdcompress.bench import onnxruntime_web
from kdcompress.data.splits import Source
from kdcompress.export import formats
from kdcompress.pipelines import sbom
from kdcompress.pipelines.bundle.card import by_class, limits, pretrained
from kdcompress.pipelines.bundle.kinds import COMMON, ENGINE, FAMILIES, KINDS
from kdcompress.pipelines.bundle.model import model_of
from kdcompress.pipelines.bundle.sample import sample, save_png
from kdcompress.pipelines.verify import SUMS
from kdcompress.report import sure
from kdcompress.report.figures import capital, significant
from kdcompress.report.markdown import plain
from kdcompress.tasks import task_of

TEMPLATES = Path(formats.__file__).parent / "bundle"


def write(
    folder: Path,
    run: Path,
    document: Mapping[str, Any],
    row: Mapping[str, Any],
    artifact: Artifact,
    source: Source,
) -> None:
    task = task_of(artifact.input).judging(document["recipe"].get("metric"))
    family = FAMILIES[task.program]
    kind = ENGINE if artifact.provenance.get("engine") else KINDS[artifact.format]
    folder.mkdir()
    copy_to(artifact.path, folder / artifact.path.name)
    threads = document["recipe"]["bench"]["threads"]
    model = model_of(document, row, artifact, kind, threads)
    image, expected = sample(run, document, artifact, source, threads)
    texts = {name: _json(value) for name, value in (("model.json", model), ("expected.json", expected))}
    named = {each["name"]: each for each in document["rows"]}
    parent: Mapping[str, Any] = named.get("student-fp32") or {"score": None, "details": {}}
    names = {"program": task.program, "Program": camel(task.program)}
    further = {
        name.format_map(names): (template.format_map(names), what) for name, (template, what) in kind.files.items()
    }
    values = {
        "model": model,
        "task": task.purpose,
        "metric": task.metric,
        "program": task.program,
        "document": document,
        "row": row,
        "bytes": artifact.bytes,
        "folder": artifact.path.is_dir(),
        "classes": by_class(run, document, row, source),
        "test_images": len(source.test),
        "parent_score": parent["score"],
        "parent": parent,
        "sure": sure.card(row),
        "latency": row["latency"] if (row["latency"] or {}).get("n") else None,
        "threads": threads,
        "limits": limits(row, artifact),
        "pretrained": pretrained(document),
        "licence": kind.licence,
        "ort_web": onnxruntime_web.VERSION,
        "workspace_mib": artifact.provenance.get("workspace_mib"),
        "engine": "../model.engine" if kind is ENGINE else artifact.path.name,
        "library": "tensorrt_rtx" if artifact.format == "tensorrt-rtx" else "nvinfer",
        "files": [
            (artifact.path.name, "the model"),
            *{**COMMON, **family.files}.items(),
            *((name, what) for name, (_, what) in further.items()),
        ],
    }
    own = f"{task.program}/"
    copied = {"infer.py": kind.infer, "self_check.py": "self_check.py", "model.py": "model.py"}
    copied |= {name: own + name for name in (f"{task.program}.py", "example.py")} | dict(family.shares)
    texts |= {name: (TEMPLATES / template).read_text(encoding="utf-8") for name, template in copied.items()}
    texts |= _modules(family.copies)
    texts["MODEL_CARD.md"] = filled("MODEL_CARD.md", values)
    texts |= {name: filled(template, values) for name, (template, _) in further.items()}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    (folder / "sample.bin").write_bytes(image.tobytes())
    save_png(image, folder / "sample.png")
    web = onnxruntime_web.VERSION if "index.html" in kind.files else None
    bill = sbom.document(folder, model, kind.licence, web, document["data"]["licence"])
    (folder / sbom.NAME).write_text(_json(bill), encoding="utf-8", newline="\n")
    sums = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_of(folder)]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8", newline="\n")


def _modules(copies: Mapping[str, str]) -> dict[str, str]:
    """Files that are modules of kdcompress, which import each other by their names in the bundle."""
    paths = {name: Path(str(import_module(module).__file__)) for name, module in copies.items()}
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    for name, module in copies.items():
        texts = {key: text.replace(f"from {module} import", f"from {name} import") for key, text in texts.items()}
    return {f"{name}.py": text for name, text in texts.items()}


def filled(name: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES / str(values["program"]), TEMPLATES]),
        undefined=StrictUndefined,
        autoescape=name.endswith(".html"),
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["camel"] = camel
    environment.filters["capital"] = capital
    environment.filters["digits"] = significant
    environment.filters["line"] = plain
    environment.filters["quoted"] = lambda text: json.dumps(" ".join(str(text).split()), ensure_ascii=False)
    return environment.get_template(f"{name}.j2").render(values)


def camel(name: str) -> str:
    """ "InstanceSegmenter" of "instance_segmenter"."""
    return "".join(part.capitalize() for part in name.split("_"))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
