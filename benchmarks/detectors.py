"""Detectors through the exporters: what is built, whether it finds the same, its size and its latency.

    OMP_NUM_THREADS=1 python benchmarks/detectors.py --output docs/results/detectors.json --page docs/results.md
    python benchmarks/detectors.py --only fcos/small-resnet10x1 --targets x86-vnni,litert-fp32

Each format of each detector is made by a process of its own, which is stopped after LIMIT_S: a crash or a hang is one
failure. What was found is kept in ``--work``; a second start does what is missing there, or was found with other
packages. Between its marks, the page gets the table.

Weights are random, from a fixed seed, with batch norms that have seen images; the last layers' are drawn so wide that
scores and boxes vary as those of a trained detector do. No distribution of a trained one is so unkind to int8.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcompress.artifact import InputSpec, remove, write_text
from kdcompress.bench.machine import machine, packages
from kdcompress.bench.timing import timed
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.export import formats
from kdcompress.export.describe import artifact_of
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import answer_of, described
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters
from kdcompress.models.deployable import Deployable
from kdcompress.parity import compared
from kdcompress.pipelines.preflight import settle
from kdcompress.pipelines.verdict import not_as_asked
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks
from kdcompress.tasks.detection import detections

PARENT = "onnx-fp32"
COLUMNS = {
    PARENT: "ONNX fp32",
    "onnx-fp16": "ONNX fp16",
    "x86-vnni": "ONNX int8",
    "openvino-fp32": "OpenVINO fp32",
    "x86-openvino": "OpenVINO int8",
    "litert-fp32": "LiteRT fp32",
    "android-litert": "LiteRT int8",
    "android-xnnpack-fp32": "ExecuTorch fp32",
    "android-xnnpack": "ExecuTorch int8",
    "ncnn-fp32": "ncnn fp32",
    "mnn-fp32": "MNN fp32",
    "ios-coreml-int8": "Core ML int8",
    "tensorrt-rtx": "TensorRT-RTX fp16",
    "tensorrt-rtx-int8": "TensorRT-RTX int8",
}
THIN: dict[str, Any] = {"width": 32, "levels": 3, "depth": 1}
SMALL: dict[str, Any] = {"width": 48, "levels": 4, "depth": 1}
WIDER: dict[str, Any] = {"width": 64, "levels": 4, "depth": 2}
DETECTORS: dict[str, tuple[int, dict[str, Any]]] = {  # the side of its images, and its options
    "fcos/small-resnet10x1": (128, THIN),
    "retinanet/small-resnet10x1": (128, THIN),
    "fcos/small-resnet10x2": (128, SMALL),
    "fcos/timm/resnet18": (128, WIDER),
    "retinanet/timm/resnet18": (96, SMALL),
    "fcos/timm/mobilenetv3_small_050": (128, WIDER),
    "retinanet/timm/mobilenetv3_small_100": (128, SMALL),
    "retinanet/timm/lcnet_050": (128, WIDER),
    "fcos/timm/efficientnet_lite0": (96, SMALL),
    "retinanet/timm/efficientnet_lite0": (96, SMALL),
    "fcos/torchvision/shufflenet_v2_x0_5": (128, WIDER),
    "retinanet/torchvision/mobilenet_v3_small": (128, WIDER),
    "fcos/timm/convnext_atto": (96, SMALL),
    "retinanet/timm/convnext_atto": (96, SMALL),
    "fcos/timm/mobilevitv2_050": (128, SMALL),
    "fcos/timm/repvgg_a0": (96, SMALL),
    "torchvision/ssdlite320_mobilenet_v3_large": (160, {}),
    "torchvision/ssd300_vgg16": (300, {}),
    "torchvision/fcos_resnet50_fpn": (96, {}),
    "torchvision/retinanet_resnet50_fpn": (96, {}),
}
LABELS = tuple(map(str, range(10)))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATED, COMPARED, PAIRS = 32, 16, 40  # images, and timed calls
LIMIT_S = 300
LAST = (
    "logits",
    "cls_logits",
    "codes",
    "distances",
    "centerness",
    "bbox_reg",
    "bbox_ctrness",
)  # layers, by their names
MARKS = "<!-- detectors: begin -->", "<!-- detectors: end -->"


def pictures(count: int, side: int, seed: int) -> np.ndarray:
    """uint8 [count, side, side, 3]: rectangles and discs on a ground of eight by eight colours, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images = np.empty((count, side, side, 3))
    for image in images:
        at = np.arange(side) * 8 // side
        image[:] = rng.uniform(30, 180, (8, 8, 3))[at][:, at]
        for disc in rng.integers(0, 2, 5):
            left, top = rng.integers(0, side - side // 8, 2)
            width, height = rng.integers(side // 10, side // 2, 2)
            image[top : top + height, left : left + width] = rng.uniform(0, 255, 3)
            if disc:
                image[(x - left) ** 2 + (y - top) ** 2 < (width / 2) ** 2] = rng.uniform(0, 255, 3)
    return (images + rng.normal(0, 8, images.shape)).clip(0, 255).astype(np.uint8)


def ready(name: str) -> Deployable:
    """The detector with its preprocessing, in evaluation mode, as this file's head says."""
    side, options = DETECTORS[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        net = build(name, len(LABELS), 3, options)
    for path, module in net.named_modules():
        if path.endswith("bn3"):  # else each block makes the error of those before it larger, as no trained one does
            nn.init.constant_(module.weight, 0.05)  # type: ignore[arg-type]
    pixels = torch.from_numpy(pictures(16, side, seed=0)).permute(0, 3, 1, 2) / 255
    x = (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    settle(net, x)
    with torch.no_grad():
        spread(net, x[:4])
        outputs = described(answer_of(net(x[:1])), tasks["detection"], LABELS)
    spec = InputSpec(side, side, 3, MEAN, STD, LABELS, task="detection", outputs=outputs)
    return Deployable(net, spec).eval()


def spread(net: nn.Module, x: torch.Tensor) -> None:
    """Last layers get weights that give logits of deviation 1.5 around -4, and coded boxes of deviation 0.3 or,
    distances, 1."""
    found: dict[nn.Module, list[torch.Tensor]] = {}
    lasts = last_layers(net)
    hooks = [m.register_forward_hook(lambda m, given, out: found.setdefault(m, []).append(out)) for m in lasts.values()]
    for module in lasts.values():
        nn.init.normal_(module.weight, std=0.1)
        nn.init.zeros_(module.bias)
    net(x)
    for hook in hooks:
        hook.remove()
    for path, module in lasts.items():
        classes = "cls" in path or "class" in path or path.endswith("logits")
        coded = path.endswith("codes") or "bbox_reg" in path or "regression_head" in path
        wanted = 1.5 if classes else 0.3 if coded else 1.0
        module.weight.mul_(wanted / torch.cat([out.flatten() for out in found[module]]).std().clamp(min=1e-6))
        nn.init.constant_(module.bias, -4.0 if classes else 0.0)


def last_layers(net: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions behind which there are boxes and scores, by path."""
    found = {}
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and path.rpartition(".")[2] in LAST:
            found[path] = module
        if path.endswith("module_list"):  # SSD's, a part a map
            for i, part in enumerate(module.children()):
                found[f"{path}.{i}"] = [each for each in part.modules() if isinstance(each, nn.Conv2d)][-1]
    return found


# One format, in a process of its own


def examine(name: str, target: str, path: Path) -> None:
    """Leaves what it found of one format at ``path``."""
    os.setsid()  # so that it is stopped together with the converters that it starts
    torch.set_num_threads(1)
    begun = time.perf_counter()
    try:
        found = checked(name, target, path.with_suffix(""))
    except RuntimeMissingError as error:
        found = {"status": "skipped", "reason": error.what}
    except KDCompressError as error:
        found = {"status": "failed", "reason": error.what + (f" ({error.got})" if error.got is not None else "")}
    except Exception as error:  # not meant for users: a defect of ours
        trace = "".join(traceback.format_exception(error))[-4000:]
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300], "traceback": trace}
    write_text(path, json.dumps({**found, "seconds": round(time.perf_counter() - begun, 1)}, indent=1))


def checked(name: str, target: str, folder: Path) -> dict[str, Any]:
    module = ready(name)
    spec = module.spec
    folder.mkdir(parents=True, exist_ok=True)
    images = pictures(COMPARED, spec.height, seed=2)
    with TorchRunner(module, spec) as runner:
        expected = infer_all(runner, images, spec)
    file = folder.parent / f"{name.replace('/', '-')}.onnx"
    if target == PARENT:
        parent = artifact = export_onnx(module, spec, file)
    elif not file.is_file():
        raise KDCompressError("There is no fp32 ONNX file to start from.")
    else:
        parent = artifact_of(file)
        job = formats.ExportJob(module, parent, pictures(CALIBRATED, spec.height, seed=1), folder, "model")
        artifact = formats.build(job, formats.target(target))
    found: dict[str, Any] = {"status": "passed", "reason": None, "bytes": artifact.bytes}
    found |= {"parameters": count_parameters(module), "coverage": artifact.provenance.get("coverage")}
    found["detections"] = sum(map(len, detections(expected, 0.3))) / COMPARED
    built = not_as_asked(artifact.precision, found["coverage"]) if target != PARENT else None
    if built:
        return {**found, "status": "failed", "reason": f"it is not {artifact.precision} as built: {built}"}
    try:
        runner = formats.open_runner(artifact)
    except RuntimeMissingError as error:
        return {**found, "not_run": error.what}
    with runner, formats.open_runner(parent) as base:
        got = infer_all(runner, images, artifact.input)
        found["latency"] = latency(runner, base, spec.prepare(images[:1]))
    agreement = compared(expected, got, "detection", artifact.precision, spec.chosen)
    found["parity"] = agreement.to_json()
    if not agreement:
        found |= {"status": "failed", "reason": f"it does not find what PyTorch finds: {agreement.why}"}
    return found


def latency(runner: Any, base: Any, x: np.ndarray) -> dict[str, Any]:
    """Of one image: medians of calls in turns with the fp32 ONNX file's, and the ratio of these."""
    for _ in range(3):
        runner.infer(x), base.infer(x)
    pairs = np.array([[timed(each.infer, x) for each in (runner, base)] for _ in range(PAIRS)]) / 1e6
    mine, parents = np.median(pairs, 0)
    return {"n": PAIRS, "median_ms": float(mine), "parent_ms": float(parents), "ratio": float(mine / parents)}


# All of them


def facts(name: str, target: str) -> dict[str, Any]:
    """What a record must have in it to count."""
    return {"model": name, "target": target, "versions": packages(), "side": DETECTORS[name][0]}


def known_of(name: str, target: str, work: Path) -> dict[str, Any] | None:
    path = work / f"{name.replace('/', '-')}.{target}.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    return record if record.items() >= facts(name, target).items() else None


def swept(name: str, target: str, work: Path) -> dict[str, Any]:
    """What is known of one format, from a process where nothing is yet."""
    if record := known_of(name, target, work):
        return record
    path, about = work / f"{name.replace('/', '-')}.{target}.json", facts(name, target)
    path.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=examine, args=(name, target, path))
    process.start()
    process.join(LIMIT_S)
    ended = f"not ended after {LIMIT_S} s"
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    elif process.exitcode < 0:
        ended = signal.Signals(-process.exitcode).name
    if path.is_file():
        found = json.loads(path.read_text())
    else:
        found = {"status": "failed", "reason": f"the process did not survive it: {ended}", "crash": True}
    write_text(path, json.dumps({**about, **found}, indent=1))
    remove(path.with_suffix(""))
    return {**about, **found}


def page(document: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    columns = {target: COLUMNS[target] for target in document["targets"]}
    lines = [f"| detector | side | M | {' | '.join(columns.values())} |", f"|---|---:|---:|{'---|' * len(columns)}"]
    reasons = []
    for name in document["models"]:
        rows = {row["target"]: row for row in document["results"] if row["model"] == name}
        size = next((f"{row['parameters'] / 1e6:.2f}" for row in rows.values() if "parameters" in row), "")
        cells = " | ".join(cell(rows[target]) if target in rows else "–" for target in columns)
        lines.append(f"| {name} | {DETECTORS[name][0]} | {size} | {cells} |")
        for target, heading in columns.items():
            if reason := rows.get(target, {}).get("reason"):
                reasons.append(f"| {name} | {heading} | {' '.join(reason.replace('|', '/').split())} |")
    told = ["", "| detector | format | reason |", "|---|---|---|", *reasons] if reasons else []
    return "\n".join([*lines, *told])


def cell(row: dict[str, Any]) -> str:
    """How it ended, the share of detections that is the same, kB and how many times the parent's latency."""
    if row["status"] != "passed" and "parity" not in row:
        return row["status"]
    size = f"{row['bytes'] / 1e3:,.0f} kB"
    if "parity" not in row:
        return f"built, {size}"
    word = "" if row["status"] == "passed" else "failed, "
    times = "" if row["target"] == PARENT else f", {row['latency']['ratio']:.2f}×"
    return f"{word}{100 * row['parity']['matched']:.1f} %, {size}{times}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated detectors; all where it is not given")
    parser.add_argument("--targets", default=",".join(COLUMNS), help="comma-separated, besides onnx-fp32")
    parser.add_argument("--known", action="store_true", help="make nothing: what was found so far is written")
    parser.add_argument("--work", type=Path, default=Path("runs/detectors"), help="where each record is kept")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file of all records")
    parser.add_argument("--page", type=Path, help="a Markdown file with the two marks")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(DETECTORS)
    targets = list(dict.fromkeys([PARENT, *options.targets.split(",")]))
    for given, known in ((names, DETECTORS), (targets, COLUMNS)):
        if unknown := [each for each in given if each not in known]:
            raise unknown_name("name in the sweep", unknown[0], known)
    torch.set_num_threads(1)
    torch.onnx.export(
        nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), dynamo=True, verbose=False
    )  # imports, for all forks
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        for target in targets:
            found = known_of(name, target, options.work) if options.known else swept(name, target, options.work)
            if found is None:
                continue
            rows.append(found)
            print(f"{name} {target}: {cell(rows[-1])} {rows[-1]['reason'] or ''}", flush=True)
    document = {"machine": machine(), "processor": platform.processor(), "models": names, "targets": targets}
    document["results"] = rows
    if options.output:
        write_text(options.output, json.dumps(document, indent=1) + "\n")
    if options.page:
        text = options.page.read_text()
        if not all(mark in text for mark in MARKS):
            raise UsageError("The page has no place for the table.", where=options.page, allowed=" and ".join(MARKS))
        (before, _), (_, after) = text.split(MARKS[0], 1), text.split(MARKS[1], 1)
        write_text(options.page, f"{before}{MARKS[0]}\n{page(document)}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
