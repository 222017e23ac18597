"""Images a second of the batched views against PIL transforms, in one process on one thread; of decoders; and of a
training's steps, how long they wait for images that stay on the disk.

    python benchmarks/input.py --output runs/input
    python benchmarks/input.py --decoders --output runs/input
    python benchmarks/input.py --waiting --output runs/input

Both make normalised float32 batches of the same uint8 images: a random crop of the image padded with zeros, perhaps
flipped. PIL: one image after the other, as in the public repositories' data sets, and stacked as a DataLoader does.
Ours: `kdcompress`'s Loader and the member's own normalisation, in channels_last. They take turns, a batch each, in an
order drawn anew each round. Writes input.json (every sample) and input.md.

``--decoders``: JPEGs of noise on smooth colours, to 224 x 224, by one and two threads, in turns; and how far the pixels
are from Pillow's. Writes decoders.json and decoders.md. ``--waiting``: steps of a small network on images in a file,
read ahead, read by the step itself and held in memory, in turns. Writes waiting.json and waiting.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import transforms

from kdcompress.bench.machine import cpu_seconds, cpu_use, machine
from kdcompress.bench.record import Record, paired_ratio
from kdcompress.data import decode, kept
from kdcompress.data.loader import Loader
from kdcompress.data.splits import Split
from kdcompress.models.build import build
from kdcompress.models.deployable import Normalize
from kdcompress.recipe import Augment

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
WARMUP = 3
SIDE = 224


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
            samples = [(transform(Image.fromarray(split.images[i])), int(split.truth[i])) for i in mine]
            yield torch.utils.data.default_collate(samples)[0]


def our_batches(split: Split, augment: Augment, batch: int) -> Iterator[Tensor]:
    normalize = Normalize(MEAN, STD)
    for made in Loader(split, augment, batch, seed=0, channels_last=True).batches():
        yield normalize(made.x)


def in_turns(subjects: dict[str, Callable[[], Any]], rounds: int, seed: int = 0) -> dict[str, list[Any]]:
    """What each returned in each round, in an order drawn anew each round."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Any]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name in rng.permutation(list(subjects)).tolist():
            found[name].append(subjects[name]())
    return found


def milliseconds(action: Callable[[], Any]) -> float:
    begun = perf_counter()
    action()
    return 1e3 * (perf_counter() - begun)


def views(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    rng = np.random.default_rng(0)
    shape = (options.images, options.size, options.size, 3)
    split = Split(rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 100, options.images))
    augment = Augment(crop=options.size // 8, flip=True)
    makers = {
        "PIL transforms": pil_batches(split, augment, options.batch),
        "batched views": our_batches(split, augment, options.batch),
    }
    for maker in makers.values():
        for _ in range(WARMUP):
            next(maker)
    timed = {name: partial(milliseconds, partial(next, maker)) for name, maker in makers.items()}
    samples = in_turns(timed, options.rounds)
    pil, ours = (Record(name, "input", options.batch, samples_ms=each) for name, each in samples.items())
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
    lines = ["| input | images per second | n |", "|---|---:|---:|"]
    lines += [f"| {row['input']} | {row['images_per_second']:,.0f} | {row['n']} |" for row in rows]
    if ratio["median"] is not None:
        lines.append(f"\nTimes faster: {ratio['median']:.1f} [{ratio['low']:.1f}, {ratio['high']:.1f}]")
    return {"times_faster": ratio, "results": rows}, lines


def jpegs(n: int, width: int, height: int) -> list[bytes]:
    """Smooth colours with noise on them."""
    rng, found = np.random.default_rng(0), []
    for _ in range(n):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
        pixels = (np.asarray(smooth) + rng.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(out := BytesIO(), "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def by_pillow(data: bytes, draft: bool = False) -> np.ndarray:
    """The shorter side becomes 224, the middle is cut out; ``draft``: the decoder may leave out whole halvings."""
    with Image.open(BytesIO(data), formats=["JPEG"]) as image:
        if draft:
            image.draft("RGB", (SIDE, SIDE))
        width, height = image.size
        scale = SIDE / min(width, height)
        shorter = image.convert("RGB").resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
        return np.asarray(transforms.functional.center_crop(shorter, [SIDE, SIDE]))


def by_fit(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR))


def by_torchvision(data: bytes) -> np.ndarray:
    """As `kdcompress` reads an image folder."""
    pixels = decode.decode_jpeg(data, 3)
    assert pixels is not None
    return decode.resized(pixels, SIDE)


def decoded(pool: ThreadPoolExecutor, way: Callable[[bytes], np.ndarray], data: list[bytes]) -> list[np.ndarray]:
    return list(pool.map(way, data))


def decoders(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    ways: dict[str, Callable[[bytes], np.ndarray]] = {
        "Pillow": by_pillow,
        "Pillow, ImageOps.fit": by_fit,
        "Pillow, draft": lambda data: by_pillow(data, draft=True),
        "torchvision": by_torchvision,
    }
    rows = []
    for width, height, n in ((500, 375, options.files), (2000, 1500, -(-options.files // 8))):
        data = jpegs(n, width, height)
        for threads in (1, 2):
            with ThreadPoolExecutor(threads) as pool:
                timed = {name: partial(milliseconds, partial(decoded, pool, way, data)) for name, way in ways.items()}
                samples = in_turns(timed, options.rounds + 1)
            for name, each in samples.items():
                record, pillow = (Record(name, "input", n, samples_ms=s[1:]) for s in (each, samples["Pillow"]))
                apart = [np.abs(ways[name](d).astype(int) - by_pillow(d)) for d in data]
                rows.append(
                    {
                        "decoder": name,
                        "jpeg": f"{width} x {height}",
                        "threads": threads,
                        "images_per_second": 1e3 * n / statistics.median(record.samples_ms),
                        "times_faster_than_pillow": paired_ratio(pillow, record),
                        "pixels_apart_most": max(int(a.max()) for a in apart),
                        "pixels_apart_mean": float(np.mean([a.mean() for a in apart])),
                        "n": len(record.samples_ms),
                        "samples_ms": record.samples_ms,
                    }
                )
    lines = [
        "| JPEG | threads | decoder | images per second | times Pillow's [95 %] | pixels off Pillow's: most, mean |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for row in rows:
        ratio = row["times_faster_than_pillow"]
        times = "" if ratio["median"] is None else f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        lines.append(
            f"| {row['jpeg']} | {row['threads']} | {row['decoder']} | {row['images_per_second']:,.0f} | {times} "
            f"| {row['pixels_apart_most']}, {row['pixels_apart_mean']:.3f} |"
        )
    return {"results": rows}, lines


def steps_of(split: Split, options: argparse.Namespace, ahead: bool, limit: int) -> Callable[[], tuple[float, float]]:
    """Takes a training step; returns its milliseconds, and those that it waited for its images' pixels."""
    torch.manual_seed(0)
    net = build("resnet8", 10, 3)
    optimizer, normalize = torch.optim.SGD(net.parameters(), lr=0.01), Normalize(MEAN, STD)
    loader = Loader(split, Augment(crop=8, flip=True), options.batch, seed=0, channels_last=True, memory_limit=limit)
    batches, steps = loader.batches() if ahead else None, count()
    file = split.images.path if isinstance(split.images, kept.Stored) else None

    def step() -> tuple[float, float]:
        if file is not None and options.cold:  # from the disk, not from the system's cache
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before, begun = loader.waited, perf_counter()
        if batches is not None:
            batch = next(batches)
            waited = loader.waited - before
        else:
            read = loader._read(next(steps))
            waited = perf_counter() - begun
            batch = loader._made(*read)
        F.cross_entropy(net(normalize(batch.x)), batch.y).backward()
        optimizer.step()
        optimizer.zero_grad()
        return 1e3 * (perf_counter() - begun), 1e3 * waited

    return step


def waiting(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, SIDE, SIDE, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, options.images)
    with TemporaryDirectory() as folder:

        def stored(name: str) -> Split:
            path = Path(folder) / name / "images.npy"
            kept.write(path, images.shape, lambda put: [put(row, image) for row, image in enumerate(images)])
            with path.open("rb") as file:
                os.fsync(file.fileno())
            return Split(kept.opened(path), labels)

        subjects = {
            "in memory": steps_of(Split(images, labels), options, True, 2**40),
            "in a file, read ahead": steps_of(stored("ahead"), options, True, 0),
            "in a file, read by the step": steps_of(stored("step"), options, False, 0),
        }
        samples = in_turns(subjects, options.rounds + WARMUP)
    rows = []
    for name, each in samples.items():
        total, waited = (list(times) for times in zip(*each[WARMUP:]))
        share = 100 * sum(waited) / sum(total)
        rows.append({"images": name, "step_ms": statistics.median(total), "waited_percent": share, "n": len(total)})
        rows[-1] |= {"waited_ms": statistics.median(waited), "samples_ms": total, "samples_waited_ms": waited}
    lines = ["| images | step, ms | waits, ms | waits, % of the time | n |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        times = f"{row['step_ms']:,.0f} | {row['waited_ms']:.2f} | {row['waited_percent']:.2f}"
        lines.append(f"| {row['images']} | {times} | {row['n']} |")
    return {"results": rows}, lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--waiting", action="store_true")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--files", type=int, default=64, help="JPEGs a sample (decoders)")
    parser.add_argument("--cold", action="store_true", help="drop the system's cache of the file before each step")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/input"))
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = cpu_seconds()
    what = decoders if options.decoders else waiting if options.waiting else views
    results, lines = what(options)
    document = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "load": cpu_use(before, cpu_seconds()),
        "load_average": os.getloadavg(),
        "machine": machine(),
        **results,
    }
    torch.set_num_threads(threads)
    name = "input" if what is views else what.__name__
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{name}.json").write_text(json.dumps(document, indent=1))
    (options.output / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
