"""A detector's training as kdcompress does it against torchvision's reference loop: one network, images and losses.

    python benchmarks/detection_training.py --output runs/detection-training
    python benchmarks/detection_training.py --models fcos_resnet50_fpn --size 320 --rounds 40

The reference loop: CocoDetection and transforms.v2, an image at a time, in DataLoader workers; torchvision's detector
with its own transform in front, which takes lists; SGD; the losses reduced and fetched at every step. Ours is
kdcompress's own engine with `method: none` on the same folder in COCO's layout: images decoded once, and batches whole.
Both flip half of the images, and compute in float32.

They take turns, a block of steps each, in an order drawn anew each round; a sample is the mean of a block. The
reference loop first takes the batches that its workers have made beforehand, untimed. Validation and checkpoints are in
neither.

Writes detection-training.json (every sample) and detection-training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2
from training import PLAIN, PREFETCH, TIMES, block_of, compared, interleaved, our_block, table, write

from kdcompress.bench.machine import cpu_seconds
from kdcompress.data import from_scenes
from kdcompress.data.objects import BOX, CLASS
from kdcompress.data.source import load, sources
from kdcompress.data.splits import Source
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Data, Train
from kdcompress.training.distillation import Distillation, Member

MODELS = ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "retinanet_resnet50_fpn")
RATE = 1e-5  # nothing is learned: time alone is compared


def photos(folder: Path, images: int, size: int, garments: Path | None) -> None:
    """Scenes of garments as JPEG files, in COCO's layout."""
    found = sources["fashion-mnist"].find(Data(source="fashion-mnist", root=garments))
    make = from_scenes.make(Path(found.origin), 0, size, size)
    listed, boxes = [], []
    for split, count in (("train", images), ("val", 8), ("test", 8)):
        (folder / split).mkdir(parents=True)
        listed, boxes = [], []
        for number in range(count):
            its = make({"val": "validation"}.get(split, split), number)
            Image.fromarray(its.pixels).save(folder / split / f"{number}.jpg", quality=90)
            listed.append({"id": number, "file_name": f"{number}.jpg", "width": size, "height": size})
            for row in its.objects:
                x1, y1, x2, y2 = map(float, row[BOX])
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                ids = {"id": len(boxes) + 1, "image_id": number, "category_id": int(row[CLASS]) + 1}
                boxes.append({**ids, **box, "segmentation": []})
        kinds = [{"id": k + 1, "name": str(k)} for k in range(10)]
        (folder / "annotations").mkdir(exist_ok=True)
        content = {"images": listed, "annotations": boxes, "categories": kinds}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def reference_loop(name: str, folder: Path, size: int, batch: int, workers: int, device: str) -> Iterator[float]:
    """Trains; gives the loss after each step."""
    sizes = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
    detector = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=11, **sizes)
    detector.to(device).train()
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()]
    images = CocoDetection(
        str(folder / "train"), str(folder / "annotations/instances_train.json"), transforms=v2.Compose(steps)
    )
    loader: Any = DataLoader(
        wrap_dataset_for_transforms_v2(images, target_keys=("boxes", "labels", "image_id")),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        collate_fn=_rows,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
    )
    optimizer = torch.optim.SGD(detector.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    while True:
        for x, targets in loader:
            x = [image.to(device) for image in x]
            targets = [
                {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in each.items()} for each in targets
            ]
            losses = detector(x, targets)
            loss = sum(losses.values())
            value = float(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield value


def _rows(batch: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch))


def detector(name: str, source: Source) -> Distillation:
    torch.manual_seed(0)
    student = Member(build(f"torchvision/{name}", len(source.labels), 3), source.mean, source.std)
    example = torch.from_numpy(source.train.images[:2]).permute(0, 3, 1, 2).contiguous()
    count = len(source.train)
    return Distillation(student, None, {"none": {}}, example, images=count, task="detection").train()


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all networks, which come one after the other; the two loops take turns."""
    rows = []
    wanted = Train(batch_size=options.batch, lr=RATE, schedule="constant", nesterov=False, precision="fp32")
    for name in options.models.split(","):
        size = 320 if name.startswith("ssd") else options.size
        with tempfile.TemporaryDirectory() as folder:
            root, workers = Path(folder) / "photos", options.workers
            photos(root, options.images, size, options.root)
            source = load(Data(source="coco", root=root, size=size))
            loop = reference_loop(name, root, size, options.batch, workers, options.device)
            ours = our_block(detector(name, source), source, wanted, Path(folder), augment=Augment(flip=True))
            blocks = {PLAIN: block_of(loop, workers), "kdcompress": ours}
            samples = interleaved(blocks, options.rounds, options.block)
            del blocks, loop  # ends the workers
        for row in compared(samples, options.batch, options.images):
            rows.append({"method": name, "size": size, "images_per_s": 1e3 * options.batch / row["step_ms"], **row})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated, torchvision's names")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--block", type=int, default=3, help="steps of each in a round")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=256, help="pixels; of SSDlite always 320")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="of the reference loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that networks compute with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--root", type=Path, help="where Fashion-MNIST is")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/detection-training"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    before = cpu_seconds()
    rows = measured(options)
    columns = {
        "network": lambda row: f"{row['method']}, {row['size']} px",
        "loop": lambda row: "torchvision's reference loop" if row["variant"] == PLAIN else row["variant"],
        "images/s": lambda row: f"{row['images_per_s']:.1f}",
        **{name: show for name, show in TIMES.items() if name not in ("method", "variant", "epoch, s")},
    }
    shown = table(rows, columns)
    write("detection-training", options, before, rows, shown)


if __name__ == "__main__":
    main()
