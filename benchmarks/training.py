"""A training as kdcompress does it against a plain loop in the style of the public repositories.

    python benchmarks/training.py --output runs/training
    python benchmarks/training.py --methods kd --pair resnet32x4 shufflenetv1 --rounds 40
    python benchmarks/training.py --variant "amp: train.precision=bf16" --variant "fp32: train.precision=fp32"
    python benchmarks/training.py --scaling
    python benchmarks/training.py --equal-results --methods none,kd

The plain loop: a Dataset with PIL transforms for each sample and DataLoader workers, the teacher in float32 and NCHW at
every step, SGD, and the loss and top-1 and top-5 fetched at every step. Our variants are `kdcompress`'s own engine with
the overrides of a recipe. Both train the same networks on the same images, whole: making batches, step and metrics.

All take turns, a block of steps each, in an order drawn anew each round; a sample is the mean of a block. The plain
loop first takes the batches that its workers have made beforehand, untimed; ours sees the same batches in each block,
so that a teacher's stored outputs are there after the first one, which is not timed. The variant "first run" sees other
batches in each block: it computes and stores them. Validation and checkpoints are in neither. An epoch is its steps
times the median. Peak memory is that of each variant in a process of its own.

Writes training.json (every sample) and training.md; scaling.* and results.* for --scaling and --equal-results.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tables import interval, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdcompress.artifact import content_hash
from kdcompress.bench.machine import cpu_seconds, cpu_use, machine, peak_rss_mib
from kdcompress.bench.record import Record, paired_ratio
from kdcompress.data.source import load
from kdcompress.data.splits import Source, Split
from kdcompress.errors import UsageError, unknown_name
from kdcompress.methods.crd import CRD
from kdcompress.methods.dkd import DKD
from kdcompress.methods.kd import KD
from kdcompress.methods.reviewkd import ReviewKD
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Data, Train, apply_override
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train
from kdcompress.training.evaluation import score

PAIR = ("resnet32x4", "resnet8x4")  # teacher, student
METHODS = ("none", "kd", "dkd", "reviewkd", "crd")
PLAIN = "plain loop"
AUGMENT = Augment(crop=4, flip=True)
PREFETCH = 2  # batches a worker makes beforehand: the DataLoader's own default
BASE = {"train": {"batch_size": 64, "lr": 1e-4, "schedule": "constant", "nesterov": False}}
SCALES: dict[str, tuple[Any, ...]] = {
    "classes": (10, 100, 1000),
    "size": (32, 48, 64),
    "teacher": ("resnet8x4", "wrn_40_2", "resnet32x4"),
    "images": (2_000, 10_000, 50_000),
}


# The plain loop


class PlainImages(Dataset):
    """(normalised image float32 [C, H, W], label, index, contrasting indices [K]) of a split, one sample at a time."""

    def __init__(self, source: Source, augment: Augment, negatives: int = 0):
        self.split, self.negatives = source.train, negatives
        steps: list[Any] = []
        if augment.crop:
            steps.append(transforms.RandomCrop(self.split.images.shape[1:3], padding=augment.crop))
        if augment.flip:
            steps.append(transforms.RandomHorizontalFlip())
        steps += [transforms.ToTensor(), transforms.Normalize(source.mean, source.std)]
        self.transform = transforms.Compose(steps)
        classes = len(source.labels) if negatives else 0
        self.others = [np.flatnonzero(self.split.truth != label) for label in range(classes)]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, np.ndarray]:
        pixels, label = self.split.images[index], int(self.split.truth[index])
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        drawn = np.empty(0, np.int64)
        if self.negatives:
            others = self.others[label]
            drawn = np.random.choice(others, self.negatives, replace=self.negatives > len(others))
        return self.transform(image), label, index, drawn


def plain_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(student / temperature, dim=1)
    q = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, q, reduction="none").sum(1).mean() * temperature**2


def plain_dkd(student: Tensor, teacher: Tensor, y: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    target = torch.zeros_like(student).scatter_(1, y.unsqueeze(1), 1).bool()
    other = ~target
    p, q = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    pair_p = torch.cat([(p * target).sum(1, keepdim=True), (p * other).sum(1, keepdim=True)], dim=1)
    pair_q = torch.cat([(q * target).sum(1, keepdim=True), (q * other).sum(1, keepdim=True)], dim=1)
    tckd = F.kl_div(torch.log(pair_p), pair_q, reduction="sum") * temperature**2 / len(y)
    rest_q = F.softmax(teacher / temperature - 1000.0 * target, dim=1)
    rest_p = F.log_softmax(student / temperature - 1000.0 * target, dim=1)
    nckd = F.kl_div(rest_p, rest_q, reduction="sum") * temperature**2 / len(y)
    return alpha * tckd + beta * nckd


class PlainFusion(nn.Module):
    def __init__(self, channels: int, mid: int, out: int, fuse: bool):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, mid, kernel_size=1, bias=False), nn.BatchNorm2d(mid))
        self.conv2 = nn.Sequential(
            nn.Conv2d(mid, out, kernel_size=3, stride=1, padding=1, bias=False), nn.BatchNorm2d(out)
        )
        self.attention = nn.Sequential(nn.Conv2d(mid * 2, 2, kernel_size=1), nn.Sigmoid()) if fuse else None

    def forward(self, x: Tensor, deeper: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
        n, _, h, w = x.shape
        x = self.conv1(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, (h, w), mode="nearest")
            z = self.attention(torch.cat([x, deeper], dim=1))
            x = x * z[:, 0].view(n, 1, h, w) + deeper * z[:, 1].view(n, 1, h, w)
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="nearest")
        return self.conv2(x), x


def plain_hcl(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), device=students[0].device)
    for student, teacher in zip(students, teachers):
        height = student.shape[2]
        loss, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
        for size in (4, 2, 1):
            if size >= height:
                continue
            weight /= 2.0
            pooled = F.adaptive_avg_pool2d(student, (size, size)), F.adaptive_avg_pool2d(teacher, (size, size))
            loss = loss + F.mse_loss(*pooled) * weight
            weights += weight
        total = total + loss / weights
    return total


class PlainReview(nn.Module):
    def __init__(self, of: ReviewKD):
        super().__init__()
        self.pairs, self.sizes, self.pooled = of.pairs, [size[0] for size in of.sizes], of.pooled
        self.fusions = nn.ModuleList()
        for fusion in of.fusions:
            reduce, expand = fusion.reduce[0], fusion.expand[0]
            self.fusions.append(
                PlainFusion(reduce.in_channels, reduce.out_channels, expand.out_channels, fusion.attention is not None)
            )
        self.load_state_dict(
            {
                name.replace("reduce", "conv1").replace("expand", "conv2"): value
                for name, value in of.state_dict().items()
            }
        )

    def forward(self, student: Any, teacher: Any) -> Tensor:
        xs = [student.stages[s] for s, _ in self.pairs]
        targets = [teacher.stages[t] for _, t in self.pairs]
        if self.pooled:
            xs = [*xs, student.pooled.unsqueeze(-1).unsqueeze(-1)]
            targets = [*targets, teacher.pooled.unsqueeze(-1).unsqueeze(-1)]
        results: list[Tensor] = []
        deeper = None
        for fusion, x, size in zip(self.fusions[::-1], xs[::-1], self.sizes[::-1]):
            out, deeper = fusion(x, deeper, size)
            results.insert(0, out)
        return plain_hcl(results, targets)


def plain_nce(scores: Tensor, images: int) -> Tensor:
    """``scores`` [N, 1 + K]: exp(similarity / temperature) / Z of the positive and of the negatives."""
    n, k = len(scores), scores.shape[1] - 1
    noise, small = k / images, 1e-7
    positive, negative = scores[:, 0], scores[:, 1:]
    log_d1 = torch.log(positive / (positive + noise + small))
    log_d0 = torch.log(noise / (negative + noise + small))
    return -(log_d1.sum() + log_d0.reshape(-1).sum()) / n


class PlainContrast(nn.Module):
    """Memory banks read for each sample of its own: N x (1 + K) rows of each."""

    def __init__(self, of: CRD, images: int):
        super().__init__()
        self.embeds, self.images = copy.deepcopy(of.embeds), images
        self.temperature, self.momentum, self.dim = of.options.temperature, of.options.momentum, of.options.dim
        self.register_buffer("memory_student", of.banks[0].clone())
        self.register_buffer("memory_teacher", of.banks[1].clone())
        self.z: list[float] = []

    def forward(self, student: Any, teacher: Any, index: Tensor, drawn: Tensor) -> Tensor:
        n = len(index)
        vs = F.normalize(self.embeds[0](student.pooled), dim=1)
        vt = F.normalize(self.embeds[1](teacher.pooled), dim=1)
        asked = torch.cat([index.unsqueeze(1), drawn], dim=1)
        found = []
        for v, memory in ((vs, self.memory_teacher), (vt, self.memory_student)):
            weight = torch.index_select(memory, 0, asked.view(-1)).detach().view(n, -1, self.dim)
            found.append(torch.exp(torch.bmm(weight, v.view(n, self.dim, 1)).squeeze(2) / self.temperature))
        if not self.z:
            self.z = [score.mean().item() * self.images for score in found]
        loss = sum(plain_nce(score / z, self.images) for score, z in zip(found, self.z))
        with torch.no_grad():
            for v, memory in ((vs, self.memory_student), (vt, self.memory_teacher)):
                kept = self.momentum * torch.index_select(memory, 0, index) + (1 - self.momentum) * v
                memory.index_copy_(0, index, F.normalize(kept, dim=1))
        return loss  # type: ignore[return-value]


def plain_losses(made: Distillation, images: int) -> tuple[nn.Module, Callable[..., Tensor]]:
    """Modules to be trained beside the student, and the loss of (student's taps, teacher's, y, index, negatives)."""
    method = next(iter(made.auxiliary().values()))
    o: Any = method.options
    beside: nn.Module = nn.Module()
    if isinstance(method, ReviewKD):
        beside = PlainReview(method)
    if isinstance(method, CRD):
        beside = PlainContrast(method, images)

    def losses(student: Any, teacher: Any, y: Tensor, index: Tensor, drawn: Tensor, progress: float) -> Tensor:
        loss = o.task_weight * F.cross_entropy(student.logits, y)
        if isinstance(method, KD):
            loss = loss + o.weight * plain_kd(student.logits, teacher.logits, o.temperature)
        if isinstance(method, DKD):
            warm = min(progress / o.warmup, 1.0) if o.warmup else 1.0
            loss = loss + warm * plain_dkd(student.logits, teacher.logits, y, o.alpha, o.beta, o.temperature)
        if isinstance(beside, PlainReview):
            warm = min(progress / o.warmup, 1.0) if o.warmup else 1.0
            loss = loss + warm * o.weight * beside(student, teacher)
        if isinstance(beside, PlainContrast):
            loss = loss + o.weight * beside(student, teacher, index, drawn)
        return loss

    return beside, losses


def top_k(logits: Tensor, y: Tensor, ks: Sequence[int] = (1, 5)) -> list[Tensor]:
    most = min(max(ks), logits.shape[1])
    right = logits.topk(most, 1, True, True)[1].t().eq(y.view(1, -1))
    return [right[:k].reshape(-1).float().sum(0, keepdim=True) * (100.0 / len(y)) for k in ks]


def plain_loop(
    made: Distillation, source: Source, augment: Augment, options: Train, workers: int, steps: int, device: str
) -> Iterator[float]:
    """Trains the student of ``made``; gives the loss after each step. ``steps`` in all, for its schedule."""
    student, teacher = made.student, made.teacher
    method = next(iter(made.auxiliary().values()))
    negatives = min(method.options.negatives, len(source.train)) if isinstance(method, CRD) else 0
    beside, losses = plain_losses(made, len(source.train))
    student, beside = student.to(device), beside.to(device)
    parameters = [*student.net.parameters(), *beside.parameters()]
    optimizer = torch.optim.SGD(parameters, options.lr, options.momentum, weight_decay=options.weight_decay)
    loader = DataLoader(
        PlainImages(source, augment, negatives),
        options.batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
    )
    meters: dict[str, list[float]] = {"loss": [], "top1": [], "top5": []}
    step = 0
    while True:
        for x, y, index, drawn in loader:
            student.train()
            optimizer.param_groups[0]["lr"] = options.lr * 0.1 ** sum(step / steps >= m for m in options.milestones)
            x, y, index, drawn = x.float().to(device), y.to(device), index.to(device), drawn.to(device)
            optimizer.zero_grad()
            ours = student.tapped(x)
            theirs = None
            if teacher is not None:
                with torch.no_grad():
                    theirs = teacher.tapped(x)
            loss = losses(ours, theirs, y, index, drawn, step / steps)
            loss.backward()
            optimizer.step()
            top1, top5 = top_k(ours.logits, y)
            meters["loss"].append(float(loss.cpu().detach().numpy().mean()))
            meters["top1"].append(top1[0].item())
            meters["top5"].append(top5[0].item())
            step += 1
            yield meters["loss"][-1]


# Both, measured


def synthetic(images: int, size: int, classes: int) -> Source:
    """Random pixels and labels, for time alone."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        return Split(
            rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), rng.integers(0, classes, count).astype(int)
        )

    digest = content_hash([images, size, classes, "random pixels"])
    labels = tuple(map(str, range(classes)))
    return Source("random", labels, split(images), split(8), split(8), (0.5,) * 3, (0.25,) * 3, digest, "made here")


def distillation(method: str, pair: Sequence[str], source: Source) -> Distillation:
    torch.manual_seed(0)
    classes, channels = len(source.labels), source.train.images.shape[3]
    teacher, student = (
        Member(build(model, classes, channels), source.mean, source.std) if method != "none" or i else None
        for i, model in enumerate(pair)
    )
    example = torch.from_numpy(source.train.images[:2]).permute(0, 3, 1, 2).contiguous()
    assert student is not None
    return Distillation(student, teacher, {method: {}}, example, images=len(source.train)).train()


def train_options(overrides: Sequence[str], base: dict[str, Any] = BASE) -> Train:
    """Those of a recipe's `train` with overrides as `kdcompress run` takes them (train.precision=fp32)."""
    data = copy.deepcopy(base)
    for override in overrides:
        apply_override(data, override)
    if set(data) != {"train"}:
        raise UsageError("A variant sets options of the training.", got=", ".join(overrides), allowed="train....=value")
    try:
        return Train(**data["train"])
    except ValueError as error:
        raise UsageError(f"The variant is not valid: {error}.", got=", ".join(overrides)) from error


FIRST = "first run"
VARIANTS = {
    "default": [],  # automatic precision, the teacher's answers read
    FIRST: [],  # the same where they are not known yet
    "online": ["train.teacher_cache=off"],
    "fp32": ["train.precision=fp32"],
    "online, fp32": ["train.teacher_cache=off", "train.precision=fp32"],
}


Block = Callable[[int], float]  # steps -> milliseconds a step


def plain_block(made: Distillation, source: Source, options: Train, workers: int, device: str) -> Block:
    if made.teacher is not None:
        made.teacher.to(device)
    return block_of(plain_loop(made, source, AUGMENT, options, workers, 10**9, device), workers)


def block_of(loop: Iterator[float], workers: int) -> Block:
    """Steps of a loop that is fed by so many workers; what they have made beforehand is taken first, untimed."""
    ahead = workers * PREFETCH

    def block(steps: int) -> float:
        for _ in range(ahead):
            next(loop)
        begun = time.perf_counter()
        for _ in range(steps):
            next(loop)
        spent = 1e3 * (time.perf_counter() - begun) / steps
        time.sleep(0.3 if workers else 0.0)  # until the workers have made what they make beforehand
        return spent

    return block


def our_block(
    made: Distillation, source: Source, options: Train, kept: Path, first: bool = False, augment: Augment = AUGMENT
) -> Block:
    """``kept``: a folder for what outlives a training. Each block sees the same batches, or with ``first`` others."""
    os.environ["KDCOMPRESS_TEACHER_CACHE"] = str(kept / "teachers")
    seeds = itertools.count(1) if first else itertools.repeat(0)

    def block(steps: int) -> float:
        wanted = options.model_copy(update={"images": steps * options.batch_size})
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            sections = train(made, source, wanted, augment, next(seeds), Path(folder)).sections
        return 1e3 * sum(s for name, s in sections.items() if name not in ("evaluation", "checkpoints")) / steps

    return block


def subject(name: str, variant: str, options: argparse.Namespace, source: Source, kept: Path) -> Block:
    made = distillation(name, options.pair, source)
    if variant == PLAIN:
        return plain_block(made, source, train_options([]), options.workers, options.device)
    return our_block(made, source, train_options(options.variants[variant]), kept, variant == FIRST)


def interleaved(blocks: dict[str, Block], rounds: int, steps: int, seed: int = 0) -> dict[str, list[float]]:
    """Milliseconds a step of each, in the order of the rounds."""
    samples: dict[str, list[float]] = {name: [] for name in blocks}
    names, rng = list(blocks), np.random.default_rng(seed)
    for block in blocks.values():
        block(steps)
    for _ in range(rounds):
        for name in rng.permutation(names).tolist():
            samples[name].append(blocks[name](steps))
    return samples


def compared(samples: dict[str, list[float]], batch: int, images: int) -> list[dict[str, Any]]:
    """A row each; the ratio is the plain loop's time over the variant's: above 1, the variant is faster."""
    records = {
        name: Record(name, "training", batch, n=len(ms), median_ms=statistics.median(ms), samples_ms=ms)
        for name, ms in samples.items()
    }
    return [
        {
            "variant": name,
            "n": record.n,
            "step_ms": record.median_ms,
            "epoch_s": statistics.median(record.samples_ms) * (images // batch) / 1e3,
            "times_faster": None if name == PLAIN else paired_ratio(records[PLAIN], record),
            "samples_ms": record.samples_ms,
        }
        for name, record in records.items()
    ]


def peak_memory(method: str, variant: str, options: argparse.Namespace) -> dict[str, float | None]:
    """MiB of a process of its own that trains two blocks of this variant."""
    command = [sys.executable, __file__, "--alone", method, variant, "--pair", *options.pair]
    command += ["--images", str(options.images), "--size", str(options.size), "--classes", str(options.classes)]
    command += ["--workers", str(options.workers), "--threads", str(options.threads), "--device", options.device]
    if variant != PLAIN:
        command += ["--variant", f"{variant}: {' '.join(options.variants[variant])}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{method}, {variant}, alone: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def alone(method: str, variant: str, options: argparse.Namespace) -> dict[str, float | None]:
    source = synthetic(options.images, options.size, options.classes)
    with tempfile.TemporaryDirectory() as folder:
        block = subject(method, variant, options, source, Path(folder))
        block(4), block(4)
    found: dict[str, float | None] = {"peak_rss_mib": peak_rss_mib()}
    if options.device != "cpu":
        found["peak_device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def measured(names: Sequence[str], options: argparse.Namespace, memory: bool = True) -> list[dict[str, Any]]:
    """Rows of all methods and variants. Methods come one after the other, the variants of one in turns."""
    source = synthetic(options.images, options.size, options.classes)
    rows = []
    for method in names:
        with tempfile.TemporaryDirectory() as folder:
            blocks = {v: subject(method, v, options, source, Path(folder)) for v in (PLAIN, *options.variants)}
            samples = interleaved(blocks, options.rounds, options.block)
        del blocks  # ends the workers
        for row in compared(samples, train_options([]).batch_size, options.images):
            beside = peak_memory(method, row["variant"], options) if memory else {}
            rows.append({"method": method, **row, **beside})
    return rows


TIMES: dict[str, Callable[[dict[str, Any]], str]] = {
    "method": lambda row: row["method"],
    "variant": lambda row: row["variant"],
    "step, ms": lambda row: f"{row['step_ms']:.1f}",
    "epoch, s": lambda row: f"{row['epoch_s']:.0f}",
    "times faster [95 % interval]": lambda row: interval(row["times_faster"]),
    "n": lambda row: str(row["n"]),
}


def scaled(names: Sequence[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One thing at a time is changed from what the options say."""
    rows = []
    for what, values in SCALES.items():
        for value in values:
            here = argparse.Namespace(**vars(options))
            if what == "teacher":
                here.pair = (value, options.pair[1])
            else:
                setattr(here, what, value)
            rows += [{"changed": what, "to": value, **row} for row in measured(names, here, memory=False)]
    return rows


# Accuracy


def equal_results(names: Sequence[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Test accuracies after trainings on Fashion-MNIST from the same weights, with as many images seen."""
    data = Data(source="fashion-mnist", root=options.root, train_images=options.train_images)
    source = load(data)
    device = torch.device(options.device)
    steps = options.steps
    base = {"train": {**BASE["train"], "schedule": "multi-step", "milestones": (0.625, 0.75, 0.875), "lr": options.lr}}
    base["train"]["images"] = steps * base["train"]["batch_size"]
    augment = Augment(crop=2, flip=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        taught = distillation("none", (options.pair[0],) * 2, source)
        train(taught, source, train_options(["train.select=last"], base), augment, 0, Path(folder))
    teacher = copy.deepcopy(taught.student.net.state_dict())
    for method in names:
        for seed in range(options.seeds):
            found = {}
            for variant in (PLAIN, *options.variants):
                made = distillation(method, options.pair, source)
                torch.manual_seed(seed)
                start = build(options.pair[1], len(source.labels), source.train.images.shape[3])
                made.student.net.load_state_dict(start.state_dict())
                if made.teacher is not None:
                    made.teacher.net.load_state_dict(teacher)
                if variant == PLAIN:
                    np.random.seed(seed)
                    if made.teacher is not None:
                        made.teacher.to(device)
                    loop = plain_loop(
                        made, source, augment, train_options([], base), options.workers, steps, options.device
                    )
                    for _ in range(steps):
                        next(loop)
                    loop.close()
                else:
                    wanted = train_options([*options.variants[variant], "train.select=last"], base)
                    with tempfile.TemporaryDirectory() as folder:
                        train(made, source, wanted, augment, seed, Path(folder))
                found[variant] = score(made.student, source.test, device, tasks["classification"])
            rows.append({"method": method, "seed": seed, "images_seen": base["train"]["images"], "accuracy": found})
    return rows


def accuracies(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds."""

    def cell(method: str, variant: str) -> str:
        values = [row["accuracy"][variant] for row in rows if row["method"] == method]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}"

    names = list(dict.fromkeys(row["method"] for row in rows))
    columns: dict[str, Callable[[dict[str, Any]], str]] = {"method": lambda row: row["method"]}
    for variant in rows[0]["accuracy"]:
        columns[variant] = lambda row, variant=variant: cell(row["method"], variant)  # type: ignore[misc]
    seeds = len({row["seed"] for row in rows})
    note = f"\nTest accuracy in per cent after {rows[0]['images_seen']:,} images seen; seeds: {seeds}.\n"
    return table([{"method": name} for name in names], columns) + note


def variants(given: Sequence[str]) -> dict[str, list[str]]:
    """``NAME: key=value key=value`` -> {NAME: [key=value, ...]}"""
    found = {}
    for text in given:
        name, _, overrides = text.partition(":")
        found[name.strip()] = overrides.split()
        train_options(found[name.strip()])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help=f"comma-separated, of {', '.join(METHODS)}")
    parser.add_argument("--pair", nargs=2, default=PAIR, metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--variant", action="append", default=[], metavar="'NAME: key=value ...'", help="of ours")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--block", type=int, default=5, help="steps of each in a round")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop: the public code's default is 2")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that networks compute with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scaling", action="store_true", help="how the time grows, one thing at a time")
    parser.add_argument("--equal-results", action="store_true", help="accuracies at equal images seen")
    parser.add_argument("--root", type=Path, help="equal-results: where Fashion-MNIST is")
    parser.add_argument("--train-images", type=int, default=10_000, help="equal-results: of Fashion-MNIST")
    parser.add_argument("--steps", type=int, default=1000, help="equal-results: of each training")
    parser.add_argument("--seeds", type=int, default=3, help="equal-results: trainings of each")
    parser.add_argument("--lr", type=float, default=0.05, help="equal-results")
    parser.add_argument("--alone", nargs=2, metavar=("METHOD", "VARIANT"), help="peak memory of one, as JSON")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/training"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.variants = variants(options.variant) or VARIANTS
    names = options.methods.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        raise unknown_name("method", unknown[0], METHODS, where="--methods")
    if options.alone:
        print(json.dumps(alone(*options.alone, options)))
        return

    before = cpu_seconds()
    if options.equal_results:
        name, rows = "results", equal_results(names, options)
        shown = accuracies(rows)
    elif options.scaling:
        name, rows = "scaling", scaled(names, options)
        shown = table(rows, {"changed": lambda row: f"{row['changed']} = {row['to']}", **TIMES})
    else:
        name, rows = "training", measured(names, options)
        shown = table(rows, {**TIMES, "peak memory, MiB": lambda row: f"{row['peak_rss_mib']:.0f}"})
    write(name, options, before, rows, shown)


def write(name: str, options: argparse.Namespace, before: Any, rows: list[dict[str, Any]], shown: str) -> None:
    """``before``: the processors' seconds when the measurement began."""
    document = {
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "load": cpu_use(before, cpu_seconds()),
        "load_average": os.getloadavg(),
        "machine": machine(),
        "results": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{name}.json").write_text(json.dumps(document, indent=1))
    (options.output / f"{name}.md").write_text(shown)
    print(shown)


if __name__ == "__main__":
    main()
