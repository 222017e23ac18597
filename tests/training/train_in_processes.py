"""Small trainings by the engine, in one process or in those that torchrun starts with this file."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from test_engine import source

from kdcompress.models.build import build
from kdcompress.recipe import Augment, Train
from kdcompress.training import engine
from kdcompress.training.distillation import Distillation, Member


def trained(folder, method, kill_at=None, **options):
    """``kill_at``: the step after which the last process kills itself, once."""
    data = source()
    torch.manual_seed(0)
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    student, teacher = (Member(build(name, 4, 1), data.mean, data.std) for name in ("resnet8", "resnet14"))
    distillation = Distillation(student, teacher, {method: {}}, example, images=len(data.train))
    if kill_at is not None:
        engine.CHECK_EVERY, engine.CHECKPOINT_SECONDS = 1, 0.0
        last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        forward, steps, killed = distillation.forward, iter(range(10_000)), folder / "killed"

        def deadly(*arguments):
            if last and next(steps) == kill_at and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(*arguments)

        distillation.forward = deadly
    train = Train(**{"epochs": 2, "batch_size": 32, "lr": 0.05, "precision": "fp32", **options})
    return engine.train(distillation, data, train, Augment(), 0, folder)


if __name__ == "__main__":
    for name, asked in json.loads(sys.argv[2]).items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True, exist_ok=True)
        result = trained(folder, **asked)
        if os.environ.get("RANK", "0") == "0":
            torch.save({"history": result.history, "weights": result.last_weights}, folder / "result.pt")
    torch.distributed.destroy_process_group()
