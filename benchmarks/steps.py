"""What a training step of each method costs, relative to kd's on the same pair.

    python benchmarks/steps.py --output runs/steps
    python benchmarks/steps.py --methods kd,crd,sskd --pair vgg13 vgg8 --steps 50

A step is forward, backward and SGD's update of one batch of random images, which stay the same; making and augmenting
batches is not in it. All methods are loaded at once and take turns, one step each, in an order drawn anew each round,
so that a slow minute of the machine falls on all of them alike. Writes steps.json (every sample) and steps.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch

from kdcompress.bench.machine import cpu_seconds, cpu_use, machine
from kdcompress.bench.record import Record, paired_ratio
from kdcompress.errors import UsageError, unknown_name
from kdcompress.methods import methods
from kdcompress.pipelines.costs import PAIR, cost, distillation, images
from kdcompress.recipe import Train
from kdcompress.training.distillation import Distillation
from kdcompress.training.engine import make_optimizer

BASELINE = "kd"
WARMUP = 2
TRAIN = Train(lr=1e-4)  # random labels teach nothing: the weights stay about where they are


def stepper(distillation: Distillation, batch: dict[str, Any], progress: float) -> Callable[[], None]:
    optimizer = make_optimizer(distillation, TRAIN)

    def step() -> None:
        sum(distillation(**batch, progress=progress).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def interleaved(steps: dict[str, Callable[[], None]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Milliseconds of each step, in the order of the rounds."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names, rng = list(steps), np.random.default_rng(seed)
    for step in steps.values():
        for _ in range(WARMUP):
            step()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in rng.permutation(names).tolist():
                begun = perf_counter_ns()
                steps[name]()
                samples[name].append((perf_counter_ns() - begun) / 1e6)
    finally:
        gc.enable()
    return samples


def compared(samples: dict[str, list[float]], batch: int) -> dict[str, dict[str, Any]]:
    records = {
        name: Record(name, "steps", batch, n=len(ms), median_ms=statistics.median(ms), samples_ms=ms)
        for name, ms in samples.items()
    }
    return {
        name: {"median_ms": record.median_ms, "ratio": paired_ratio(record, records[BASELINE]), "samples_ms": ms}
        for (name, record), ms in zip(records.items(), samples.values())
    }


def table(document: dict[str, Any]) -> str:
    lines = [
        f"| method | step, ms | x {BASELINE} [95 % interval] | extra parameters | teacher, student, peer passes "
        f"| step MACs x {BASELINE} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    base = next(row["step_macs"] for row in document["results"] if row["method"] == BASELINE)
    for row in sorted(document["results"], key=lambda row: row["median_ms"]):
        ratio = row["ratio"]
        shown = "–" if ratio["low"] is None else f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        passes = ", ".join(f"{row['passes'][role]:g}" for role in ("teacher", "student", "peer"))
        cells = (row["method"], f"{row['median_ms']:.1f}", shown, f"{row['extra_parameters']:,}", passes)
        lines.append(f"| {' | '.join(cells)} | {row['step_macs'] / base:.2f} |")
    lines += [f"\n{name} does not take this pair: {why.splitlines()[0]}" for name, why in document["refused"].items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="all", help="comma-separated; all of them where it is not given")
    parser.add_argument("--pair", nargs=2, default=PAIR, metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--steps", type=int, default=20, help="of each method")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--progress", type=float, default=0.5, help="share of the training at which the steps are")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/steps"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    asked = list(methods) if options.methods == "all" else options.methods.split(",")
    if unknown := [name for name in asked if name not in methods]:
        raise unknown_name("method", unknown[0], list(methods), where="--methods")
    names = [BASELINE, *(name for name in asked if name != BASELINE)]

    counted, steps, refused = {}, {}, {}
    for name in names:
        try:
            counted[name] = cost(name, options.pair, options.batch, options.progress)
        except UsageError as error:
            if name == BASELINE:
                raise
            refused[name] = str(error)
            continue
        made = distillation(name, options.pair).to(memory_format=torch.channels_last)
        batch = images(options.batch, made.rows)
        batch["x"] = batch["x"].contiguous(memory_format=torch.channels_last)
        steps[name] = stepper(made, batch, options.progress)
    before = cpu_seconds()
    timed = compared(interleaved(steps, options.steps), options.batch)
    document = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "load": cpu_use(before, cpu_seconds()),
        "machine": machine(),
        "refused": refused,
        "results": [{"method": name, **timed[name], **counted[name]} for name in steps],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "steps.json").write_text(json.dumps(document, indent=1))
    (options.output / "steps.md").write_text(table(document))
    print(table(document))


if __name__ == "__main__":
    main()
