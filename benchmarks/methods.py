"""Methods x budgets x seeds with one teacher: does distillation help, where, and by how much?

    python benchmarks/methods.py benchmarks/methods.yaml --output runs/methods --workers 2

Each training is a stage in the output folder, so an interrupted sweep goes on where it was. Writes
methods.json (every training) and methods.md (the table) into the output folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml


def jobs(plan: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(b, m, s) for b in plan["budgets"] for m in plan["methods"] for s in plan["seeds"]]


def recipe_data(plan: dict[str, Any], budget: str, method: str, seed: int) -> dict[str, Any]:
    data = copy.deepcopy(yaml.safe_load(Path(plan["recipe"]).read_text()))
    for section, values in plan["budgets"][budget].items():
        data[section] = {**data.get(section, {}), **values}
    return {**data, "method": plan["methods"][method], "seed": seed}


def train_one(data: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """One training; accuracies in per cent. Best is chosen by validation; test is looked at once."""
    import torch

    from kdcompress.models.checkpoint import load_weights
    from kdcompress.pipelines.compress import Compression
    from kdcompress.recipe import validate_recipe
    from kdcompress.training.evaluation import accuracy

    torch.set_num_threads(threads)
    compression = Compression(validate_recipe(data), folder)
    compression.train_only()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    done = compression.done["student"]
    member = compression.member("student", compression.network("student")).to(device)
    member.tap(compression.example().to(device), frozenset())
    scores = {}
    for kind, file in (("best", "weights"), ("last", "last")):
        load_weights(member.net, done.folder / f"{file}.safetensors")
        scores[f"test_{kind}"] = accuracy(member, compression.source.test, device)
    keep = ("best", "last", "images_seen", "seconds", "device", "precision", "auxiliary_parameters", "parameters")
    return {**{k: done.result[k] for k in keep}, **scores}


def train_teacher(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The teacher's weights as `teacher.weights` of every training that follows."""
    import torch

    from kdcompress.models.checkpoint import load_weights
    from kdcompress.pipelines.compress import Compression
    from kdcompress.recipe import validate_recipe
    from kdcompress.training.evaluation import accuracy

    compression = Compression(validate_recipe(yaml.safe_load(Path(plan["recipe"]).read_text())), folder)
    step = compression.steps()[0]
    compression._finish("teacher", step.stage({}), False)
    path = compression.done["teacher"].folder / "weights.safetensors"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    member = compression.member("teacher", compression.network("teacher")).to(device)
    member.tap(compression.example().to(device), frozenset())
    load_weights(member.net, path)
    result = compression.done["teacher"].result
    return {
        "weights": str(path),
        "test": accuracy(member, compression.source.test, device),
        **{k: result.get(k) for k in ("model", "parameters", "best", "last", "seconds", "images_seen")},
    }


def table(plan: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Test accuracy of the weights chosen by validation, mean ± standard deviation over seeds."""
    lines = ["| budget | " + " | ".join(plan["methods"]) + " |", "|---|" + "---:|" * len(plan["methods"])]
    for budget in plan["budgets"]:
        cells = []
        for method in plan["methods"]:
            scores = [r["test_best"] for r in results if r["budget"] == budget and r["method"] == method]
            spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
            cells.append(f"{statistics.mean(scores):.2f} ± {spread:.2f}" if scores else "-")
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one worker")
    options = parser.parse_args()
    plan = yaml.safe_load(options.plan.read_text())

    from kdcompress.bench.machine import machine

    options.output.mkdir(parents=True, exist_ok=True)
    teacher = train_teacher(plan, options.output / "teacher")
    print(json.dumps(teacher), flush=True)
    results = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        waiting = {}
        for budget, method, seed in jobs(plan):
            data = recipe_data(plan, budget, method, seed)
            data["teacher"] = {"model": data["teacher"]["model"], "weights": teacher["weights"]}
            folder = options.output / f"{budget}-{method}-{seed}"
            waiting[pool.submit(train_one, data, folder, options.threads)] = (budget, method, seed)
        for future in as_completed(waiting):
            budget, method, seed = waiting[future]
            results.append({"budget": budget, "method": method, "seed": seed, **future.result()})
            print(json.dumps(results[-1]), flush=True)
            document = {"plan": plan, "teacher": teacher, "machine": machine(), "results": results}
            (options.output / "methods.json").write_text(json.dumps(document, indent=1, default=str))
            (options.output / "methods.md").write_text(table(plan, results))
    print(table(plan, results))


if __name__ == "__main__":
    main()
