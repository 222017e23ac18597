"""What a pre-training on features gives, by how many images have a label, against training from scratch.

    python benchmarks/pretraining.py --output runs/pretraining
    python benchmarks/pretraining.py --shares 0.01,0.1 --seeds 3 --teacher vgg8 --student resnet8

A teacher is trained on all training images of Fashion-MNIST with their labels. A student learns its features, from
the same images without any label (`pretrain`). Then, for each share of the labels:

- a linear probe: logistic regression on the pooled features of the frozen student, of the pre-trained one and of one
  with random weights (L2 chosen on validation images among ``PENALTIES``);
- fine-tuning: the student is trained on the labelled images alone (method `none`), from the pre-trained weights and
  from its first ones, with the same number of images seen. Of the learning rates the best on validation images is
  taken, for each start by itself.

Test images are looked at once, with what was chosen. Steps are kept in the output folder, so an interrupted benchmark
goes on. Writes pretraining.json and pretraining.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcompress.bench.machine import cpu_seconds, cpu_use, machine
from kdcompress.data.loader import eval_batches
from kdcompress.data.source import stratified_order
from kdcompress.data.splits import Split
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.steps.names import pretrained, trained
from kdcompress.pipelines.sweep import score
from kdcompress.recipe import validate_recipe

NORM = {"mean": [0.286], "std": [0.353]}  # the same for any number of labelled images
VALIDATION = 0.02  # of 60,000 training images: it is looked at after each epoch, and 1 % of the images is a short one
WHOLE = 58_800
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


def recipe(options: argparse.Namespace, seed: int, share: float, lr: float, start: str) -> dict[str, Any]:
    """Of one training from ``start``: "pretrained" or "scratch"."""
    data: dict[str, Any] = {"source": "fashion-mnist", "validation": VALIDATION, "augment": {"flip": True}}
    if share < 1:
        data |= {"train_images": round(share * WHOLE), "unlabelled": "rest"}
    teacher = {"epochs": options.teacher_epochs, "lr": 0.1, "schedule": "one-cycle"}
    found: dict[str, Any] = {
        "name": "pretraining",
        "seed": seed,
        "data": data,
        "teacher": {"model": options.teacher, "all_images": True, "train": teacher},
        "student": {"model": options.student, **NORM},
        "method": "none",
        "train": {"images": options.images, "lr": lr, "schedule": "one-cycle"},
    }
    if start == "pretrained":
        train = {"epochs": options.epochs, "lr": options.lr, "batch_size": 128}
        found["pretrain"] = {"train": train}
    return found


# A linear probe


@torch.no_grad()
def features(networks: Networks, net: torch.nn.Module, split: Split) -> Tensor:
    """The pooled feature of each image [N, D], float32."""
    member = networks.member("student", net)
    member.tap(networks.example(), frozenset({"pooled"}))
    member.eval()
    return torch.cat([member(batch.x).pooled.float() for batch in eval_batches(split, 512)])


def probe(x: Tensor, y: Tensor, classes: int, penalty: float) -> torch.nn.Linear:
    """Logistic regression by L-BFGS on features [N, D] of labels int64 [N]; ``penalty`` times the squared weights."""
    layer = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(x), y) + penalty * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer


def accuracy(layer: torch.nn.Linear, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((layer(x).argmax(1) == y).float().mean())


def probes(networks: Networks, net: torch.nn.Module, shares: Sequence[float], seed: int) -> dict[float, float]:
    """Test accuracy of a probe for each share of the labels, in per cent."""
    source = networks.sources.main
    splits = (source.train, source.validation, source.test)
    known = [features(networks, net, split) for split in splits]
    mean, std = known[0].mean(0), known[0].std(0).clamp(min=1e-6)
    train, validation, test = ((each - mean) / std for each in known)
    truths = [torch.from_numpy(np.asarray(split.truth)) for split in splits]
    order = stratified_order(source.train.truth, ("probe", seed))
    found = {}
    for share in shares:
        rows = torch.from_numpy(order[: round(share * len(order))])
        layers = [probe(train[rows], truths[0][rows], len(source.labels), penalty) for penalty in PENALTIES]
        best = max(layers, key=lambda layer: accuracy(layer, validation, truths[1]))
        found[share] = accuracy(best, test, truths[2])
    return found


# All of it


def measured(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for share in sorted(options.shares, reverse=True):
        for start in ("pretrained", "scratch"):
            tried = []
            for lr in options.lrs:
                made = Compression(validate_recipe(recipe(options, seed, share, lr, start)), options.output / "run")
                with made.folder.locked():
                    made.train()
                    result = made.done[trained("student")].result
                    tried.append((result["best"]["score"], lr, made))
            best, lr, made = max(tried, key=lambda each: each[0])
            with made.folder.locked():
                found = score(made, "student")
            rows.append({"share": share, "start": start, "kind": "fine-tuned", "lr": lr, "validation": best})
            rows[-1]["accuracy"] = found["test_best"]
            if start == "pretrained" and "pretraining" not in facts:
                step = made.done[pretrained("student")]
                teacher = made.done[trained("teacher")].result
                with made.folder.locked():
                    facts["teacher"] = {**score(made, "teacher"), "history": None}
                facts["teacher_seconds"] = teacher["seconds"]
                facts["pretraining"] = {k: v for k, v in step.result.items() if k != "history"}
                whole = Compression(validate_recipe(recipe(options, seed, 1, lr, start)), options.output / "run")
                weights = {str(step.name): step.folder}
                for name, net in (
                    ("pretrained", whole.networks.untrained("student", weights=weights)),
                    ("random", whole.networks.untrained("student")),
                ):
                    for each, value in probes(whole.networks, net, options.shares, seed).items():
                        rows.append({"share": each, "start": name, "kind": "linear probe", "accuracy": value})
    return {"seed": seed, "rows": rows, **facts}


def table(document: dict[str, Any]) -> str:
    """A line for each share of the labels, a column for each start: mean over the seeds."""
    columns = [
        ("linear probe", "random"),
        ("linear probe", "pretrained"),
        ("fine-tuned", "scratch"),
        ("fine-tuned", "pretrained"),
    ]
    titles = ["probe, random weights", "probe, pre-trained", "trained from scratch", "fine-tuned, pre-trained", "gain"]
    lines = [f"| labels | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    for share in sorted(document["options"]["shares"]):
        values: list[list[float]] = [
            [
                row["accuracy"]
                for run in document["runs"]
                for row in run["rows"]
                if (row["share"], row["kind"], row["start"]) == (share, kind, start)
            ]
            for kind, start in columns
        ]
        gains = [after - before for before, after in zip(values[2], values[3])]
        cells = [shown(each) for each in values] + [shown(gains, "+")]
        lines.append(f"| {100 * share:g} % ({round(share * WHOLE):,}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(values: Sequence[float], sign: str = "") -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="vgg8")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--teacher-epochs", type=float, default=2)
    parser.add_argument("--epochs", type=float, default=2, help="of the pre-training")
    parser.add_argument("--lr", type=float, default=2e-3, help="of the pre-training")
    parser.add_argument("--images", type=int, default=20_000, help="seen by each training on labels")
    parser.add_argument("--lrs", type=numbers, default=[0.2, 0.05], help="learning rates of the trainings on labels")
    parser.add_argument("--shares", type=numbers, default=[0.01, 0.1, 1.0], help="of the labels")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    before, begun = cpu_seconds(), time.monotonic()
    runs = [measured(options, seed) for seed in range(options.seeds)]
    document = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "seconds": round(time.monotonic() - begun, 1),
        "load": cpu_use(before, cpu_seconds()),
        "machine": machine(),
        "runs": runs,
    }
    (options.output / "pretraining.json").write_text(json.dumps(document, indent=1, default=str))
    (options.output / "pretraining.md").write_text(table(document))
    print(table(document))


if __name__ == "__main__":
    main()
