"""What masks and suppression take in NumPy, relative to what they took at another revision of this repository.

    OMP_NUM_THREADS=1 python benchmarks/masks.py --before REVISION --output runs/masks

A small YOLACT learns garments in scenes for some minutes, and answers test scenes. Of each image the code at hand and
that of the other revision take turns, in one process, in an order drawn anew each time: suppression alone, masks of
prototypes, masks of cells that fill their boxes (Mask R-CNN's; they are cut here out of YOLACT's), and all that a
file's answer takes, COCO's codes with it; and class maps of random logits, 11 of 16 x 16 places for 128 x 128 pixels.
"least" is the score from which on a box is found: 0.05 in measurements, 0.3 in what a bundle shows. Times are the
processor's, of all threads: those of a busy machine are longer, the ratios are about the same. Whether both find the
same, bit for bit, is counted. Writes masks.json (every sample) and masks.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time_ns
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torchvision.ops import roi_align

from kdcompress import boxes, class_maps, segments
from kdcompress.bench.machine import cpu_seconds, cpu_use, machine
from kdcompress.bench.record import Record, paired_ratio, summarise
from kdcompress.data import outlined
from kdcompress.data.source import load
from kdcompress.models.answers import shipped
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Data, Train
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train
from kdcompress.training.evaluation import score

TASK = tasks["instance-segmentation"]
MODEL = "yolact/small-resnet10x2", {"width": 48, "levels": 3, "depth": 1, "prototypes": 12}
LEAST = 0.05, 0.3
LOGITS = 11, 16, 16  # of a segmenter of class maps
CELLS = 28  # of a side, in masks that fill their boxes
MODULES = {
    "boxes": "kdcompress/boxes.py",
    "segments": "kdcompress/segments.py",
    "outlined": "kdcompress/data/outlined.py",
    "class_maps": "kdcompress/class_maps.py",
}
Outputs = tuple[np.ndarray, ...]


def code_at(revision: str) -> Any:
    """The modules as they were, each with those of its own time."""
    found: dict[str, ModuleType] = {}
    for name, path in MODULES.items():
        text = subprocess.check_output(["git", "show", f"{revision}:{path}"], text=True)
        for other in found:
            text = text.replace(f"from kdcompress.{other} import", f"from {other}_before import")
        module = found[name] = ModuleType(f"{name}_before")
        sys.modules[module.__name__] = module  # dataclasses look there
        exec(compile(text, f"{revision}:{path}", "exec"), module.__dict__)
    return SimpleNamespace(**found)


def learnt(options: argparse.Namespace) -> tuple[list[Outputs], float]:
    """The outputs to some test images, and the mask AP of the network on these; kept in the folder for another time."""
    kept = options.output / "outputs.npz"
    if kept.exists():
        *every, reached = np.load(kept).values()
        return list(zip(*every, strict=True)), float(reached)
    source = load(Data(source="fashion-mnist-scenes", train_images=options.train_images), TASK.truth)
    torch.manual_seed(0)
    net = build(MODEL[0], len(source.labels), source.train.images.shape[-1], MODEL[1])
    example = torch.from_numpy(np.asarray(source.train.images[:2])).permute(0, 3, 1, 2).contiguous()
    student = Member(net, source.mean, source.std)
    asked = Train(
        epochs=options.epochs,
        batch_size=32,
        optimizer="adamw",
        lr=0.004,
        weight_decay=0.05,
        clip_norm=10,
        schedule="one-cycle",
    )
    distillation = Distillation(student, [], "none", example, task=TASK.name)
    train(distillation, source, asked, Augment(flip=True, crop=12), 0, options.output)
    student.eval()
    few = replace(source.test, images=np.asarray(source.test.images[: options.images]), rows=None)
    few = replace(few, truth=source.test.truth[: options.images])
    with torch.no_grad():
        answer = student(torch.from_numpy(few.images).permute(0, 3, 1, 2).contiguous()).answer
    outputs = [each.numpy() for each in shipped(answer)]
    reached = score(student, few, torch.device("cpu"), TASK)
    np.savez(kept, *outputs, reached)
    return list(zip(*outputs, strict=True)), reached


@dataclass(frozen=True)
class Work:
    """One of the things that are timed: ``one(code)`` does it, of an image that was prepared."""

    name: str
    prepared: Callable[[Outputs], tuple[Any, ...]]
    one: Callable[..., Any]


def works(least: float) -> list[Work]:
    options = {**boxes.suppressed.__kwdefaults__, "score": least}

    def found(outputs: Outputs) -> Any:
        return boxes.kept(*outputs[:2], **options)

    def to_draw(outputs: Outputs) -> tuple[Any, ...]:
        detections, places = found(outputs)
        return detections.boxes, outputs[2][places], outputs[3]

    def to_paste(outputs: Outputs) -> tuple[Any, ...]:
        detections, _ = found(outputs)
        masks = segments.drawn(*to_draw(outputs))
        return detections.boxes, cells_of(detections.boxes, masks), masks.shape[1:]

    def answer(code: Any, *outputs: np.ndarray) -> list[bytes]:
        return code.outlined.codes(code.segments.segmented(*outputs, score=least).masks)

    return [
        Work(
            "suppression", lambda outputs: tuple(outputs[:2]), lambda code, *given: code.boxes.kept(*given, **options)
        ),
        Work("masks of prototypes", to_draw, lambda code, *given: code.segments.drawn(*given)),
        Work("masks of cells", to_paste, lambda code, *given: code.segments.pasted(*given)),
        Work("all, with codes", tuple, answer),
    ]


def upsampling() -> Work:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, *LOGITS)).astype(np.float32)
    size = tuple(8 * side for side in LOGITS[1:])
    return Work("class maps", lambda _: (logits, size), lambda code, *given: code.class_maps.classes_of(*given))


def cells_of(found: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """What masks bool [D, H, W] have in each cell of their boxes [D, 4], float32 [D, CELLS, CELLS]."""
    if not len(found):
        return np.zeros((0, CELLS, CELLS), np.float32)
    places = torch.from_numpy(np.concatenate([np.arange(len(found), dtype=np.float32)[:, None], found], 1))
    pixels = torch.from_numpy(masks.astype(np.float32))[:, None].contiguous()
    return roi_align(pixels, places, CELLS, aligned=True)[:, 0].numpy()


def timed(work: Work, code: dict[str, Any], given: Sequence[Outputs], rounds: int) -> dict[str, Any]:
    """Sample i of both is of one image, ``rounds`` of each."""
    rng = np.random.default_rng(0)
    prepared = [work.prepared(each) for each in given]
    samples: dict[str, list[float]] = {name: [] for name in code}
    for name in code:
        work.one(code[name], *prepared[0])
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for each in prepared:
                for name in rng.permutation(list(code)).tolist():
                    begun = process_time_ns()
                    work.one(code[name], *each)
                    samples[name].append((process_time_ns() - begun) / 1e6)
    finally:
        gc.enable()
    records = {name: Record(name, "masks", 1) for name in code}
    for name, record in records.items():
        summarise(record, samples[name])
    same = sum(alike(*(work.one(each, *one) for each in code.values())) for one in prepared)
    ratio = paired_ratio(records["now"], records["before"])
    return {"ratio": ratio, "same": same, **{name: record.to_json() for name, record in records.items()}}


def alike(now: Any, before: Any) -> bool:
    """Whether two answers are the same, bit for bit."""
    if isinstance(now, np.ndarray):
        return np.array_equal(now, before)
    if isinstance(now, tuple):  # detections, and their places
        names = "boxes", "labels", "scores"
        pairs = [(now[1], before[1]), *((getattr(now[0], each), getattr(before[0], each)) for each in names)]
        return all(np.array_equal(*pair) for pair in pairs)
    return bool(now == before)


def table(document: dict[str, Any]) -> str:
    lines = [
        "| what | least | boxes an image | before, CPU ms | now, CPU ms | now / before [95 %] | n | same images |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in document["results"]:
        ratio, now, before = row["ratio"], row["now"], row["before"]
        shown = "–" if ratio["low"] is None else f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        cells = (row["what"], f"{row['least']:g}", f"{row['boxes']:.1f}", f"{before['median_ms']:.2f}")
        same = f"{row['same']} of {document['options']['images']}"
        lines.append(f"| {' | '.join(cells)} | {now['median_ms']:.2f} | {shown} | {ratio['n']} | {same} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="HEAD", metavar="REVISION", help="what the code at hand is compared with")
    parser.add_argument("--train-images", type=int, default=1200)
    parser.add_argument("--epochs", type=float, default=9)
    parser.add_argument("--images", type=int, default=100, help="of the test split, that are answered")
    parser.add_argument("--rounds", type=int, default=5, help="of each image")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/masks"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    options.output.mkdir(parents=True, exist_ok=True)
    code = {
        "now": SimpleNamespace(boxes=boxes, segments=segments, outlined=outlined, class_maps=class_maps),
        "before": code_at(options.before),
    }
    given, reached = learnt(options)
    load_before, results = cpu_seconds(), []
    for least in LEAST:
        count = np.mean([len(boxes.suppressed(*each[:2], score=least)) for each in given])
        for work in works(least):
            row = timed(work, code, given, options.rounds)
            results.append({"what": work.name, "least": least, "boxes": float(count), **row})
    results.append({"what": "class maps", "least": 0, "boxes": 0, **timed(upsampling(), code, given, options.rounds)})
    document = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "mask_ap": reached,
        "load": cpu_use(load_before, cpu_seconds()),
        "machine": machine(),
        "results": results,
    }
    (options.output / "masks.json").write_text(json.dumps(document, indent=1))
    (options.output / "masks.md").write_text(table(document))
    print(f"mask AP {reached:.1f} % of {options.images} images")
    print(table(document))


if __name__ == "__main__":
    main()
