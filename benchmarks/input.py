"""Images a second of the batched views against PIL transforms, in one process on one thread.

    python benchmarks/input.py --output runs/input

Both make normalised float32 batches of the same uint8 images: a random crop of the image padded with zeros, perhaps
flipped. PIL: one image after the other, as in the public repositories' data sets, and stacked as a DataLoader does.
Ours: `kdcompress`'s Loader and the member's own normalisation, in channels_last. They take turns, a batch each, in an
order drawn anew each round. Writes input.json (every sample) and input.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from kdcompress.bench.machine import cpu_seconds, cpu_use, machine
from kdcompress.bench.timing import Record, paired_ratio
from kdcompress.data.loader import Loader
from kdcompress.data.source import Split
from kdcompress.models.deployable import Normalize
from kdcompress.recipe import Augment

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
WARMUP = 3


def pil_transform(size: int, crop: int, flip: bool) -> Callable[[Any], Any]:
    steps: list[Any] = [transforms.RandomCrop(size, padding=crop)] if crop else []
    return transforms.Compose([*steps, *([transforms.RandomHorizontalFlip()] if flip else [])])


def pil_views(images: np.ndarray, crop: int, flip: bool) -> list[np.ndarray]:
    """A random view of each image of uint8 [N, H, W, 1], uint8 [H, W] each."""
    transform = pil_transform(images.shape[1], crop, flip)
    return [np.asarray(transform(Image.fromarray(image[:, :, 0]))) for image in images]


def batched_views(images: np.ndarray, crop: int, flip: bool) -> list[np.ndarray]:
    """The same, by the loader."""
    split = Split(images, np.zeros(len(images), np.int64))
    batch = Loader(split, Augment(crop=crop, flip=flip), len(images), seed=0).batch_at(0)
    return list(batch.x[:, 0].numpy())


def pil_batches(split: Split, augment: Augment, batch: int) -> Iterator[Tensor]:
    crop = pil_transform(split.images.shape[1], augment.crop, augment.flip)
    transform = transforms.Compose([crop, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    while True:
        order = torch.randperm(len(split)).tolist()
        for start in range(0, len(order) - batch + 1, batch):
            mine = order[start : start + batch]
            samples = [(transform(Image.fromarray(split.images[i])), int(split.labels[i])) for i in mine]
            yield torch.utils.data.default_collate(samples)[0]


def our_batches(split: Split, augment: Augment, batch: int) -> Iterator[Tensor]:
    normalize = Normalize(MEAN, STD)
    for made in Loader(split, augment, batch, seed=0, channels_last=True).batches():
        yield normalize(made.x)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/input"))
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    rng = np.random.default_rng(0)
    shape = (options.images, options.size, options.size, 3)
    split = Split(rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 100, options.images))
    augment = Augment(crop=options.size // 8, flip=True)
    makers = {
        "PIL transforms": pil_batches(split, augment, options.batch),
        "batched views": our_batches(split, augment, options.batch),
    }
    records = {name: Record(name, "input", options.batch) for name in makers}
    for maker in makers.values():
        for _ in range(WARMUP):
            next(maker)
    before = cpu_seconds()
    for _ in range(options.rounds):
        for name in rng.permutation(list(makers)).tolist():
            begun = perf_counter()
            next(makers[name])
            records[name].samples_ms.append(1e3 * (perf_counter() - begun))
    torch.set_num_threads(threads)

    pil, ours = records.values()
    ratio = paired_ratio(pil, ours)
    rows = [
        {
            "input": record.name,
            "images_per_second": 1e3 * options.batch / statistics.median(record.samples_ms),
            "n": len(record.samples_ms),
            "samples_ms": record.samples_ms,
        }
        for record in (pil, ours)
    ]
    lines = ["| input | images a second | n |", "|---|---:|---:|"]
    lines += [f"| {row['input']} | {row['images_per_second']:,.0f} | {row['n']} |" for row in rows]
    if ratio["median"] is not None:
        lines.append(f"\nTimes faster: {ratio['median']:.1f} [{ratio['low']:.1f}, {ratio['high']:.1f}]")
    document = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "load": cpu_use(before, cpu_seconds()),
        "load_average": os.getloadavg(),
        "machine": machine(),
        "times_faster": ratio,
        "results": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "input.json").write_text(json.dumps(document, indent=1))
    (options.output / "input.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
