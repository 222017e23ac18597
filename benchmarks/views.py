"""Images a second, and the time of a training step, of each kind of view made here and by torchvision's v2 transforms.

    python benchmarks/views.py --output runs/views
    python benchmarks/views.py --size 224 --batch 16 --network none --output runs/views-224

Everyone makes normalised float32 batches of the same uint8 images in one process on one thread, with the same
operations. Ours: `kdcompress`'s Loader, a batch at once. torchvision's: one image after the other in a DataLoader
without workers, once from tensors and once from Pillow images; mixup and CutMix on its batches. A step makes a batch
and trains ``--network`` on it (none: the batch alone). All take turns, a step each, in an order drawn anew each round.
Writes views.json (every sample) and views.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from kdcompress.bench.machine import cpu_seconds, cpu_use, machine
from kdcompress.bench.record import Record, paired_ratio
from kdcompress.data.loader import Loader
from kdcompress.data.mixing import Mixing
from kdcompress.data.splits import Split
from kdcompress.models.build import build
from kdcompress.models.deployable import Normalize
from kdcompress.recipe import Augment

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
CLASSES = 10
WARMUP = 2
OURS, TENSORS, PILLOW = "kdcompress", "torchvision, tensors", "torchvision, Pillow"
Batches = Iterator[tuple[Tensor, Tensor]]


def pipelines(size: int) -> dict[str, tuple[dict[str, Any], list[Any], list[Any]]]:
    """By name: what we are asked for, torchvision's transforms of an image, and those of a batch."""
    flip, ours = v2.RandomHorizontalFlip(), {"flip": True}
    sigma, reach = (0.1, 2.0), 13
    crop, resized = v2.RandomCrop(size, padding=size // 8), v2.RandomResizedCrop(size, scale=(0.08, 1))
    blur = v2.RandomApply([v2.GaussianBlur(reach, sigma)], 0.5)
    whole = {**ours, "resized_crop": 0.08, "trivial": True, "erasing": 0.1}
    return {
        "crop, flip": ({**ours, "crop": size // 8}, [crop, flip], []),
        "resized crop, flip": ({**ours, "resized_crop": 0.08}, [resized, flip], []),
        "flip, colour": ({**ours, "colour": 0.4}, [flip, v2.ColorJitter(0.4, 0.4, 0.4)], []),
        "flip, TrivialAugment": ({**ours, "trivial": True}, [flip, v2.TrivialAugmentWide()], []),
        "flip, RandAugment (2, 9)": ({**ours, "randaugment": {"n": 2, "m": 9}}, [flip, v2.RandAugment(2, 9)], []),
        "flip, blur": ({**ours, "blur": {"probability": 0.5, "sigma": sigma}}, [flip, blur], []),
        "flip, erasing": ({**ours, "erasing": 0.25}, [flip, v2.RandomErasing(0.25)], []),
        "flip, mixup": ({**ours, "mixup": 0.2}, [flip], [v2.MixUp(alpha=0.2, num_classes=CLASSES)]),
        "resized crop, flip, TrivialAugment, erasing, mixup or CutMix": (
            {**whole, "mixup": 0.2, "cutmix": 1.0},
            [resized, flip, v2.TrivialAugmentWide(), v2.RandomErasing(0.1)],
            [v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=CLASSES), v2.CutMix(alpha=1.0, num_classes=CLASSES)])],
        ),
    }


class Images(Dataset[Any]):
    """One image after the other, as torchvision's users write it."""

    def __init__(self, split: Split, changes: Sequence[Any], pillow: bool):
        self.split = split
        first: list[Any] = [v2.ToPILImage()] if pillow else []
        erasing = [change for change in changes if isinstance(change, v2.RandomErasing)]  # takes tensors alone
        others = [change for change in changes if not isinstance(change, v2.RandomErasing)]
        last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self.transform = v2.Compose([*first, *others, *last, *erasing])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.split.images[index]).permute(2, 0, 1)
        return self.transform(image), int(self.split.truth[index])


def their_batches(split: Split, changes: list[Any], mixing: list[Any], batch: int, pillow: bool) -> Batches:
    loader = DataLoader(Images(split, changes, pillow), batch, shuffle=True, drop_last=True)
    while True:
        for x, y in loader:
            for mix in mixing:
                x, y = mix(x, y)
            yield x, y


def our_batches(split: Split, asked: dict[str, Any], batch: int) -> Batches:
    augment, normalize = Augment(**asked), Normalize(MEAN, STD)
    loader = Loader(split, augment, batch, seed=0, channels_last=True)
    mixing = Mixing(augment, CLASSES, 0) if augment.mixes else None
    for step, made in zip(count(), loader.batches()):
        mixed = mixing(made, step) if mixing else made
        yield normalize(mixed.x), mixed.y


def stepper(batches: Batches, network: str) -> Callable[[], tuple[float, float]]:
    """Takes a step; returns the milliseconds that the batch took, and all."""
    torch.manual_seed(0)
    net = None if network == "none" else build(network, CLASSES, 3)
    optimizer = None if net is None else torch.optim.SGD(net.parameters(), lr=1e-4)

    def step() -> tuple[float, float]:
        begun = perf_counter()
        x, y = next(batches)
        made = perf_counter()
        if net is not None and optimizer is not None:
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        return 1e3 * (made - begun), 1e3 * (perf_counter() - begun)

    return step


def in_turns(subjects: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    found: dict[str, list[Any]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name in rng.permutation(list(subjects)).tolist():
            found[name].append(subjects[name]())
    return found


def measured(split: Split, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    asked, changes, mixing = pipelines(options.size)[name]
    makers: dict[str, Callable[[], Batches]] = {
        OURS: partial(our_batches, split, asked, options.batch),
        TENSORS: partial(their_batches, split, changes, mixing, options.batch, False),
        PILLOW: partial(their_batches, split, changes, mixing, options.batch, True),
    }
    samples = in_turns({who: stepper(make(), options.network) for who, make in makers.items()}, options.rounds + WARMUP)
    made = {who: [batch for batch, _ in each[WARMUP:]] for who, each in samples.items()}
    records = {who: Record(who, "views", options.batch, samples_ms=each) for who, each in made.items()}
    return [
        {
            "views": name,
            "by": who,
            "batch_ms": statistics.median(made[who]),
            "images_per_second": 1e3 * options.batch / statistics.median(made[who]),
            "step_ms": statistics.median(total for _, total in samples[who][WARMUP:]),
            "times_faster_than_it": None if who == OURS else paired_ratio(records[who], records[OURS]),
            "n": len(made[who]),
            "samples_batch_ms": made[who],
            "samples_step_ms": [total for _, total in samples[who][WARMUP:]],
        }
        for who in makers
    ]


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| views | images a second: ours | torchvision, tensors | torchvision, Pillow "
        "| times faster than tensors, than Pillow [95 %] | step, ms: ours, tensors, Pillow | n |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in dict.fromkeys(row["views"] for row in rows):
        of = {row["by"]: row for row in rows if row["views"] == name}
        each = [of[who] for who in (OURS, TENSORS, PILLOW)]
        speeds = " | ".join(f"{row['images_per_second']:,.0f}" for row in each)
        ratios = ", ".join(ratio(row["times_faster_than_it"]) for row in each[1:])
        steps = ", ".join(f"{row['step_ms']:,.0f}" for row in each)
        lines.append(f"| {name} | {speeds} | {ratios} | {steps} | {each[0]['n']} |")
    return lines


def ratio(found: dict[str, Any]) -> str:
    if found["median"] is None:
        return "too few"
    return f"{found['median']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--network", default="resnet8", help="trained on the batches; none: they are made alone")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", help="the views whose names have this in them")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/views"))
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    shape = (options.images, options.size, options.size, 3)
    split = Split(rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, CLASSES, options.images))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = cpu_seconds()
    names = [name for name in pipelines(options.size) if (options.only or "") in name]
    rows = [row for name in names for row in measured(split, name, options)]
    document = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "load": cpu_use(before, cpu_seconds()),
        "load_average": os.getloadavg(),
        "machine": machine(),
        "results": rows,
    }
    torch.set_num_threads(threads)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "views.json").write_text(json.dumps(document, indent=1))
    (options.output / "views.md").write_text("\n".join(table(rows)) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
