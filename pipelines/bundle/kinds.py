"""What a bundle of each format has in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdcompress.pipelines import sbom


@dataclass(frozen=True)
class Kind:
    """What is told of a format: its runtime, the template that runs it, and further files (name -> template, what it
    is). ``{program}`` in a name is that of the family."""

    runtime: str
    package: str
    module: str
    infer: str
    licence: str
    files: Mapping[str, tuple[str, str]]
    also: str = ""  # packages that the runtime's own needs


@dataclass(frozen=True)
class Family:
    """What is told of the programs of a task's bundles, whose templates are in a folder of that name."""

    programs: Sequence[str]  # self_check.py loads them in this order, and asks the last one
    files: Mapping[str, str]  # name -> what it is
    copies: Mapping[str, str]  # name -> module of kdcompress that is copied; such need numpy alone
    shares: Mapping[str, str] = field(default_factory=dict)  # name -> a template that several families have, as it is


MOBILE = "not compiled where this folder was made"


def _android(template: str) -> dict[str, tuple[str, str]]:
    return {"{Program}.kt": (template, f"for Android: {MOBILE}")}


def _ios(template: str) -> dict[str, tuple[str, str]]:
    return {"{Program}.swift": (template, f"for iOS: {MOBILE}")}


WEB = {
    "example.cpp": ("example.cpp", "the same with ONNX Runtime's C++ interface"),
    "CMakeLists.txt": ("CMakeLists.txt", "builds example.cpp"),
    "index.html": ("index.html", "the same in a browser: `python3 -m http.server`, then open it"),
    "{program}.mjs": ("{program}.mjs", "what index.html and Node.js run the model with"),
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
    "expected.json": "what the model gives for it",
    "self_check.py": "whether this folder is whole and works here",
}
PROGRAMS = {
    "model.py": "what it takes and gives, in the batches that it takes",
    "infer.py": "what runs it, for your own programs",
}
PHOTO = {"photo.py": "photo.py"}
FAMILIES = {
    "classifier": Family(
        ("infer", "model", "classifier"),
        {
            "expected.json": "the model's logits for it",
            "classifier.py": "the model as a Python object",
            **PROGRAMS,
            "example.py": "classifies an image file",
        },
        {},
    ),
    "detector": Family(
        ("infer", "model", "boxes", "matching", "fit", "detector"),
        {
            "expected.json": "what the model finds in it",
            "detector.py": "the model as a Python object",
            **PROGRAMS,
            "boxes.py": "overlaps of boxes, and suppression",
            "matching.py": "which boxes of two files belong together: self_check.py needs it",
            "fit.py": "where an image lies in the model's input",
            "photo.py": "reads an image file as the model takes it",
            "example.py": "finds the objects in an image file, and draws their boxes",
        },
        {"boxes": "kdcompress.boxes", "matching": "kdcompress.matching", "fit": "kdcompress.data.fit"},
        PHOTO,
    ),
    "segmenter": Family(
        ("infer", "model", "class_maps", "fit", "segmenter"),
        {
            "expected.json": "the classes that the model gives for it",
            "segmenter.py": "the model as a Python object",
            **PROGRAMS,
            "class_maps.py": "enlarges the model's logits, and takes the largest",
            "fit.py": "where an image lies in the model's input",
            "photo.py": "reads an image file as the model takes it",
            "example.py": "classes the pixels of an image file, and draws them",
        },
        {"class_maps": "kdcompress.class_maps", "fit": "kdcompress.data.fit"},
        PHOTO,
    ),
    "instance_segmenter": Family(
        ("infer", "model", "boxes", "matching", "fit", "segments", "detector", "instance_segmenter"),
        {
            "expected.json": "what the model finds in it",
            "instance_segmenter.py": "the model as a Python object",
            **PROGRAMS,
            "boxes.py": "overlaps of boxes, and suppression",
            "segments.py": "masks of the model's outputs",
            "matching.py": "which masks of two files belong together: self_check.py needs it",
            "fit.py": "where an image lies in the model's input",
            "detector.py": "what the model has in common with detectors",
            "photo.py": "reads an image file as the model takes it",
            "boxes_example.py": "what example.py has in common with that of detectors",
            "example.py": "finds the objects in an image file, and draws their masks",
        },
        {
            "boxes": "kdcompress.boxes",
            "segments": "kdcompress.segments",
            "matching": "kdcompress.matching",
            "fit": "kdcompress.data.fit",
        },
        {**PHOTO, "detector.py": "detector/detector.py", "boxes_example.py": "detector/example.py"},
    ),
}
