"""Trains reference networks anew: their weights, and what their records say of how they were made.

    python tests/reference/train.py residual mobile

A network takes half a minute to two on a core. What is interrupted goes on from where it was, in the folder --work.
Their records are of the weights that were: renew.py comes next.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from reference_files import NAMES, read, weights_path, write

import kdcompress
from kdcompress.artifact import remove
from kdcompress.data.source import load
from kdcompress.models.build import build
from kdcompress.models.checkpoint import save_weights
from kdcompress.models.counting import count_parameters
from kdcompress.recipe import Augment, Data, Train
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train
from kdcompress.training.evaluation import score


def trained(recipe: dict[str, Any], root: Path, work: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network of a record's recipe, with weights that fp16 holds exactly, and the facts of its training. Its score
    is that of these weights, on all test images."""
    task, options = tasks[recipe["task"]], dict(recipe["data"])
    augment = Augment(**options.pop("augment"))
    source = load(Data(root=root, **options), task.truth)
    torch.manual_seed(recipe["seed"])
    net = build(recipe["model"], len(source.labels), source.train.images.shape[-1], recipe.get("options"))
    example = torch.from_numpy(source.train.images[:2]).permute(0, 3, 1, 2).contiguous()
    student = Member(net, source.mean, source.std)
    distillation = Distillation(student, [], "none", example, task=task.name)
    work.mkdir(parents=True, exist_ok=True)
    result = train(distillation, source, Train(**recipe["train"]), augment, recipe["seed"], work)
    halved = {k: v.half().float() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    net.load_state_dict(halved)
    reached = score(student, source.test, torch.device("cpu"), task)
    facts = {
        "mean": [round(value, 6) for value in source.mean],
        "std": [round(value, 6) for value in source.std],
        "labels": list(source.labels),
        "parameters": count_parameters(net),
        "score": {task.metric.name: round(reached, 2), "test_images": len(source.test)},
        "seconds": round(result.seconds),
        "versions": {"torch": torch.__version__.partition("+")[0], "kdcompress": kdcompress.__version__},
    }
    return net, facts


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains reference networks anew.")
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "reference"), help="for checkpoints")
    options = parser.parse_args()
    root = Path(os.environ.get("KDCOMPRESS_DATA", "datasets"))
    for name in options.names:
        made = read(name)["made"]
        net, facts = trained(made["recipe"], root, options.work / name)
        state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        save_weights({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, weights_path(name))
        write(name, {"made": {**made, **facts}})
        remove(options.work / name)
        print(f"{name}: {facts['score']}, {facts['parameters']} parameters, {facts['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
