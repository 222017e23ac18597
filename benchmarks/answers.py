"""The largest probabilities of a teacher's answers alone: size, error, the student's accuracy, time of an epoch.

python benchmarks/answers.py --json docs/results/top-labels.json

One teacher, and for each way to keep its answers the same students, one a seed. All answers to all views are computed
first, as `kdcompress cache export` does, so that every epoch of a student reads them. Trainings take turns: the ways of
a seed one after the other. Accuracy is that of the weights that validation chose, on the test images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.bench.machine import machine
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.runs import STEPS
from kdcompress.pipelines.share import Share
from kdcompress.pipelines.steps.names import trained
from kdcompress.pipelines.sweep import score
from kdcompress.recipe import Recipe, validate_recipe

WAYS: dict[str, dict[str, Any]] = {
    "all, fp32": {},
    "k = 5": {"teacher_cache_top": 5},
    "k = 3": {"teacher_cache_top": 3},
    "not kept": {"teacher_cache": "off"},
}


def recipe(options: argparse.Namespace, way: str, seed: int) -> Recipe:
    train = {"epochs": options.epochs, "lr": 0.05, "precision": "fp32"}
    augment = {"crop": 2, "flip": True, "views": options.views}
    return validate_recipe(
        {
            "name": "answers",
            "data": {"source": "fashion-mnist", "train_images": options.images, "augment": augment},
            "teacher": {"model": options.teacher, "train": {**train, "epochs": options.teacher_epochs}},
            "student": {"model": options.student},
            "method": {"kd": {"temperature": 4}},
            "train": {**train, **WAYS[way]},
            "seed": seed,
        }
    )


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ways = [way for way in WAYS if way in options.ways.split(";")]
    found: dict[str, Any] = {way: {"trainings": []} for way in ways}
    for way in ways:
        if way != "not kept":
            begun = time.monotonic()
            output = folder / f"{way.replace(' ', '')}.npz"
            output.unlink(missing_ok=True)
            share = Share(recipe(options, way, 0), folder, output)
            share.check()
            said = share.run()
            found[way] |= {"file_bytes": said["bytes"], "errors": said["errors"], "fill_s": time.monotonic() - begun}
    teacher = None
    for seed, way in itertools.product(range(options.seeds), ways):
        if way == "not kept" and seed:  # its students are those of "all, fp32": only its time is of interest
            continue
        place = folder / "online" if way == "not kept" else folder  # its step is the same as that of "all, fp32"
        if not place.exists():
            shutil.copytree(folder / STEPS / "teacher", place / STEPS / "teacher")
        compression = Compression(recipe(options, way, seed), place)
        compression.check(ships=False)
        with compression.folder.locked():
            compression.train()
            facts = score(compression, "student")
            teacher = teacher or score(compression, "teacher")["test_best"]
        done = compression.done[trained("student")].result
        seconds = np.diff([0.0, *(epoch["seconds"] for epoch in facts["history"])]).tolist()
        found[way]["trainings"].append(
            {
                "seed": seed,
                "test": facts["test_best"],
                "agreement": facts["agreement"],
                "epoch_s": seconds,
                "teacher_passes": done["teacher_passes"],
                "cache": done["teacher_cache"],
            }
        )
        print(
            f"{way}, seed {seed}: {facts['test_best']:.2f} %, {statistics.median(seconds):.1f} s an epoch", flush=True
        )
    return {"teacher": teacher, "ways": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--teacher", default="resnet14")
    parser.add_argument("--teacher-epochs", type=float, default=4)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default=";".join(WAYS))
    parser.add_argument("--folder", type=Path, help="where the run is; an interrupted one goes on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        os.environ["KDCOMPRESS_TEACHER_CACHE"] = str(folder / "answers")
        found = measured(options, folder)
    asked = {key: value for key, value in vars(options).items() if key not in ("json", "folder", "ways")}
    document = {**asked, **found, "machine": machine()}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1, default=str) + "\n")
    for way, facts in found["ways"].items():
        tests = [each["test"] for each in facts["trainings"]]
        print(f"{way}: {statistics.mean(tests):.2f} %")


if __name__ == "__main__":
    main()
