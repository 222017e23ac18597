"""How far `kdcompress bench` can be believed: false positives, a known slowdown, its own cost, MLPerf LoadGen.

    OMP_NUM_THREADS=1 python benchmarks/bench.py --output docs/results/bench.json
    python benchmarks/bench.py --runs 2 --slowdowns 1 --seconds 1      to try it

A session is a process of its own that measures a network's fp32 ONNX file, a copy of it and its int8 file, one thread.
In an A/A session the copy is run as it is: a verdict on it is false. In a slowed one each query of the copy is made to
take 10 % longer, in its own time: that is to be found, within a session and against an A/A session. Sessions are kept
in --work, and what is there is not measured again. Weights are as they were drawn: latency does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics as basic
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, InputSpec, replacing, write_text
from kdcompress.bench import regression, statistics, timing
from kdcompress.bench.devices import Progress, Request, Session, devices
from kdcompress.bench.machine import machine
from kdcompress.bench.timing import Subject
from kdcompress.export import formats
from kdcompress.export.to_onnx import export_onnx
from kdcompress.optional import require
from kdcompress.pipelines.measure import any_artifact, bench_files, load_session
from kdcompress.report.latency import export
from kdcompress.runner import Runner

FILES = ("student.onnx", "copy.onnx", "student-x86-vnni.onnx")
COPY, INT8 = FILES[1:]
SLOWDOWN = 0.10


class Slowed:
    """A runner whose every call takes ``SLOWDOWN`` longer than it would."""

    def __init__(self, runner: Runner):
        self.runner, self.name = runner, runner.name

    def __enter__(self) -> Slowed:
        self.runner.__enter__()
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        start = perf_counter_ns()
        outputs = self.runner.infer(x)
        end = perf_counter_ns() + int(SLOWDOWN * (perf_counter_ns() - start))
        while perf_counter_ns() < end:
            pass
        return outputs

    def __exit__(self, *error: Any) -> None:
        self.runner.__exit__(*error)

    def details(self) -> dict[str, Any]:
        return self.runner.details()


@devices.register("slowed")
def slowed(request: Request, address: str, progress: Progress) -> Session:
    """This process, with the copy slowed."""

    def opened(artifact: Artifact, threads: int = 1) -> Runner:
        runner = request.open(artifact, threads=threads)
        return Slowed(runner) if artifact.path.name == COPY else runner

    return devices["local"](replace(request, open=opened), address, progress)


def prepare(model: str, folder: Path) -> None:
    """The files to measure, where they are not there yet."""
    if all((folder / name).is_file() for name in FILES):
        return
    import torch

    from kdcompress.models.build import build
    from kdcompress.models.deployable import Deployable

    torch.manual_seed(0)
    spec = InputSpec(32, 32, 3, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(10))))
    module = Deployable(build(model, 10, 3), spec).eval()
    images = np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), dtype=np.uint8)
    with replacing(folder) as fresh:
        fresh.mkdir()
        parent = export_onnx(module, spec, fresh / FILES[0])
        formats.build(formats.ExportJob(module, parent, images, fresh, "student"), formats.target("x86-vnni"))
        (fresh / COPY).write_bytes((fresh / FILES[0]).read_bytes())


def session(kind: str, files: Path, effort: str, path: Path) -> dict[str, Any]:
    """One session in a process of its own, or what it measured before."""
    if not path.is_file():
        command = [sys.executable, __file__, "--session", kind, "--work", str(files.parent), "--effort", effort]
        subprocess.run([*command, "--output", str(path)], check=True)
    return load_session(path)


def share(found: Sequence[bool]) -> dict[str, Any]:
    """How many, of how many, and Wilson's 95 % interval of the share."""
    n, k, z = len(found), sum(found), 1.959964
    if not n:
        return {"k": 0, "n": 0}
    middle, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * (k * (n - k) / n + z * z / 4) ** 0.5
    return {"k": k, "n": n, "low": round(max(0.0, middle - half), 4), "high": round(min(1.0, middle + half), 4)}


def of_the_rounds(document: dict[str, Any]) -> tuple[float, float]:
    """The interval of the copy's ratio before it is widened for what changes from process to process."""
    copy, original = (np.array(document["records"][name]["samples_ms"]) for name in (COPY, FILES[0]))
    n = min(len(copy), len(original))
    return statistics.paired_bootstrap(copy[:n], original[:n])[1:]


def judged(same: list[dict[str, Any]], slow: list[dict[str, Any]]) -> dict[str, Any]:
    """What sessions said of the copy, alone and each against the one before it."""
    ratios = [document["ratios"][COPY] for document in same]
    raised = [document["ratios"][COPY] for document in slow]
    int8 = [document["ratios"][INT8] for document in same]
    pairs = list(zip(same, same[1:]))
    changes = [row for old, new in pairs for row in regression.compare(old, new)["rows"]]
    relative, plain = ([r for r in changes if (r["by"] == "latency") == wanted] for wanted in (False, True))
    found = [r for old, new in zip(same, slow) for r in regression.compare(old, new)["rows"] if r["name"] == COPY]
    overlaps = [a["low"] <= b["high"] and b["low"] <= a["high"] for a, b in zip(int8, int8[1:])]
    medians = [document["records"][FILES[0]]["median_ms"] for document in same]
    return {
        "false_positives": share([ratio["verdict"] != "no difference shown" for ratio in ratios]),
        "false_positives_of_the_rounds_alone": share([not low <= 1 <= high for low, high in map(of_the_rounds, same)]),
        "slowdown_found": share([ratio["verdict"] == "slower" for ratio in raised]),
        "slowdown_in_interval": share([r["low"] <= 1 + SLOWDOWN <= r["high"] for r in raised]),
        "slowdown_estimates": [round(ratio["median"], 4) for ratio in raised],
        "same_command_twice_overlaps": share(overlaps),
        "compare_false_relative": share([row["verdict"] != "no difference shown" for row in relative]),
        "compare_false_plain": share([row["verdict"] != "no difference shown" for row in plain]),
        "compare_slowdown_found": share([row["verdict"] == "slower" for row in found]),
        "between_sessions": {
            "copy_ratios": [round(ratio["median"], 4) for ratio in ratios],
            "int8_ratios": [round(ratio["median"], 4) for ratio in int8],
            "fp32_median_ms": medians,
            "relative_changes": [round(row["ratio"], 4) for row in relative if row["ratio"]],
            "plain_changes": [round(row["ratio"], 4) for row in plain if row["ratio"]],
        },
        "n_queries": [min(ratio["n"] for ratio in ratios), max(ratio["n"] for ratio in ratios)] if ratios else None,
        "other_cpu_percent": [document["records"][COPY]["other_cpu_percent"] for document in same],
    }


class Nothing:
    """A runner that does nothing: what is left is the harness."""

    name = "nothing"

    def __enter__(self) -> Nothing:
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (x,)

    def __exit__(self, *error: Any) -> None:
        return None

    def details(self) -> dict[str, Any]:
        return {}


def overhead(smallest_ms: float, beside: Path) -> dict[str, Any]:
    """Microseconds that the harness puts into a sample, alone and in turns with a model file, and between two of
    them."""
    spec = InputSpec(1, 1, 1, (0.0,), (1.0,), ("a",))
    made = timing.measure([Subject("nothing", Nothing(), spec)], np.zeros((4, 1, 1, 1), np.uint8), "rapid")["nothing"]
    inside = basic.median(timing.harness_overhead_us() for _ in range(20))
    return {
        "in_a_sample_us": round(inside, 3),
        "between_samples_us": round(1e6 * (made.wall_s or 0) / made.n - 1e3 * sum(made.samples_ms) / made.n, 2),
        "n": made.n,
        "in_turns_us": in_turns(beside),
        "smallest_median_ms": smallest_ms,
        "share_of_smallest": round(inside / 1e3 / smallest_ms, 5),
    }


def in_turns(path: Path) -> dict[str, Any]:
    """The same after a model's queries have taken the caches; samples are kept to 0.1 microseconds."""
    artifact = any_artifact(path)
    images = np.random.default_rng(0).integers(
        0, 256, (64, artifact.input.height, artifact.input.width, artifact.input.channels), dtype=np.uint8
    )
    subjects = [
        Subject("model", formats.open_runner(artifact), artifact.input),
        Subject("nothing", Nothing(), artifact.input),
    ]
    found = 1e3 * np.array(timing.measure(subjects, images, "rapid")["nothing"].samples_ms)
    return {
        "median": round(float(np.median(found)), 1),
        "p99": round(statistics.percentile(found, 99) or 0, 1),
        "n": len(found),
    }


def loadgen(infer: Callable[[np.ndarray], Any], pool: list[np.ndarray], queries: int, seconds: float) -> dict[str, Any]:
    """MLPerf LoadGen's single-stream scenario on the same calls that we time, and both sides' estimates.

    ``estimates`` are of LoadGen's own latencies: by its summary, and by ``statistics``. None where it says that n is
    too small. Latencies in ms.
    """
    lg = require("mlperf_loadgen", "dev", "The comparison with MLPerf")
    ours: list[int] = []

    def issue(samples: Any) -> None:
        for sample in samples:
            ours.append(timing.timed(infer, pool[sample.index]))
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings, log = lg.TestSettings(), lg.LogSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.min_query_count, settings.min_duration_ms = queries, int(1e3 * seconds)
    with TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        log.log_output, log.enable_trace = output, True
        system = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(len(pool), len(pool), lambda samples: None, lambda samples: None)
        lg.StartTestWithLogSettings(system, library, settings, log, "")
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
        trace = (Path(folder) / "mlperf_log_trace.json").read_text()  # lines of it are not always whole JSON
    done = re.findall(r'"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":0,"complete_ns":(\d+)', trace)
    theirs = np.array([int(took) for _, took in sorted(done, key=lambda each: int(each[0]))]) / 1e6
    mine = np.array(ours[-len(theirs) :]) / 1e6
    estimates = {
        f"p{p}": {"loadgen": _said(summary, p), "ours": statistics.early_stopping_estimate(theirs, p)} for p in (90, 99)
    }
    return {
        "n": len(theirs),
        "valid": "Result is : VALID" in summary,
        "estimates": estimates,
        "discarded": {"loadgen": _discarded(summary), "ours": statistics.overlatency_count(len(theirs), 90) - 1},
        "median_ms": {"loadgen": float(np.median(theirs)), "ours": float(np.median(mine))},
        "loadgen_over_ours": float(np.median(theirs / mine)),
        "loadgen_adds_us": float(np.median(theirs - mine) * 1e3),
    }


def _said(summary: str, p: int) -> float | None:
    """LoadGen's early-stopping estimate of a percentile, in ms."""
    for line in summary.splitlines():
        if f"Early stopping {p}.0th percentile estimate: " in line:
            return int(line.rsplit(": ", 1)[1]) / 1e6
    return None


def _discarded(summary: str) -> int | None:
    found = [line for line in summary.splitlines() if "Would discard" in line]
    return int(found[0].split("discard ")[1].split()[0]) if found else None


def with_loadgen(path: Path, queries: int, seconds: float) -> dict[str, Any]:
    artifact = any_artifact(path)
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    pool = [artifact.input.prepare(image[None]) for image in images]
    with formats.open_runner(artifact) as runner:
        for x in pool:
            runner.infer(x)
        return loadgen(runner.infer, pool, queries, seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="A/A sessions")
    parser.add_argument("--slowdowns", type=int, default=20, help="slowed sessions")
    parser.add_argument("--effort", default="rapid", choices=list(timing.EFFORTS))
    parser.add_argument("--model", default="resnet8", help="a name of the zoo")
    parser.add_argument("--seconds", type=float, default=10, help="of LoadGen, at least 1,024 queries")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/bench.json"))
    parser.add_argument("--session", choices=["aa", "slow"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    files = options.work / options.model
    if options.session:
        paths = tuple(files / name for name in FILES)
        device = "local" if options.session == "aa" else "slowed"
        export(bench_files(paths, effort=options.effort, device=device), options.output)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options.model, files)
    sessions: dict[str, list[dict[str, Any]]] = {"aa": [], "slow": []}
    plan = [("aa", i) for i in range(options.runs)] + [("slow", i) for i in range(options.slowdowns)]
    for kind, i in sorted(plan, key=lambda step: (step[1], step[0])):
        path = options.work / f"{options.model}-{options.effort}-{kind}-{i:02d}.json"
        sessions[kind].append(session(kind, files, options.effort, path))
        print(f"{kind} {i + 1}", file=sys.stderr, flush=True)
    smallest = min(d["records"][name]["median_ms"] for d in sessions["aa"] for name in FILES)
    document = {
        "options": {key: getattr(options, key) for key in ("runs", "slowdowns", "effort", "model", "seconds")},
        "machine": machine(),
        **judged(sessions["aa"], sessions["slow"]),
        "overhead": overhead(smallest, files / FILES[0]),
        "loadgen": {name: with_loadgen(files / name, 1024, options.seconds) for name in (FILES[0], INT8)},
    }
    write_text(options.output, json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k not in ("machine", "between_sessions")}, indent=1))


if __name__ == "__main__":
    main()
