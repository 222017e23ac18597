"""Teacher and student in every installed runtime, twice by the same command, and against the runtimes' own tools.

    OMP_NUM_THREADS=1 python benchmarks/runtimes.py --output docs/results/latency.json
    python benchmarks/runtimes.py --effort rapid --sessions 1 --rounds 1      to try it

Each session is one `kdcompress bench` of all files, in turns, one thread. OpenVINO's benchmark_app and LiteRT's
litert-benchmark measure the files of their formats in turns with us, one file alone in a process, so many rounds.
Files and sessions are kept in --work, and what is there is not made again. Weights are random: latency does not depend
on them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, InputSpec, replacing, write_text
from kdcompress.bench import timing
from kdcompress.export import formats
from kdcompress.pipelines.measure import any_artifact, bench_files, load_session
from kdcompress.report.latency import export, interval
from kdcompress.report.markdown import table

NETWORKS = {"teacher": "vgg8", "student": "resnet8"}
# By what a row of the table is of. The first is the fp32 ONNX file, which the others are made from.
TARGETS = {
    "fp32": ("onnx", "openvino-fp32", "android-xnnpack-fp32", "litert-fp32", "ncnn-fp32", "mnn-fp32"),
    "int8": ("x86-vnni", "x86-openvino", "android-xnnpack", "android-litert"),
}
RUNTIMES = ("ONNX Runtime", "OpenVINO", "ExecuTorch", "LiteRT", "ncnn", "MNN")  # as the targets are ordered
OF_TOOLS = ("openvino", "litert")  # formats
SPEC = InputSpec(28, 28, 1, (0.5,), (0.25,), tuple(map(str, range(10))))


def prepare(folder: Path, targets: dict[str, Sequence[str]] = TARGETS) -> dict[str, Path]:
    """The files by "teacher fp32 onnx", made where they are not there yet. A runtime that is not installed is left
    out."""
    record = folder / "files.json"
    if not record.is_file():
        with replacing(folder) as fresh:
            fresh.mkdir(parents=True)
            found = {}
            for role, model in NETWORKS.items():
                for key, artifact in build(role, model, fresh, targets).items():
                    found[key] = artifact.path.name
                    write_text(artifact.path.with_name(artifact.path.name + ".json"), json.dumps(artifact.to_json()))
            write_text(fresh / record.name, json.dumps(found))
    return {key: folder / name for key, name in json.loads(record.read_text()).items()}


def build(role: str, model: str, folder: Path, targets: dict[str, Sequence[str]]) -> dict[str, Artifact]:
    import torch

    from kdcompress.export.to_onnx import export_onnx
    from kdcompress.models.build import build as network
    from kdcompress.models.deployable import Deployable
    from kdcompress.pipelines.preflight import settle

    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (64, SPEC.height, SPEC.width, SPEC.channels), dtype=np.uint8)
    net = network(model, len(SPEC.labels), SPEC.channels)
    settle(net, (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    module = Deployable(net, SPEC).eval()
    parent = export_onnx(module, SPEC, folder / f"{role}.onnx")
    found = {f"{role} fp32 onnx": parent}
    for precision, names in targets.items():
        for name in names:
            if name == "onnx" or (role == "teacher" and precision == "int8"):
                continue
            target = formats.target(name)
            if not formats.availability(target)[1]:
                print(f"{name}: {formats.availability(target)[2]}", file=sys.stderr)
                continue
            job = formats.ExportJob(module, parent, images, folder, role)
            found[f"{role} {precision} {name}"] = formats.build(job, target)
    return found


def session(files: Sequence[Path], effort: str, path: Path) -> dict[str, Any]:
    """One `kdcompress bench` in a process of its own, or what it measured before; ratios are to the first file."""
    if not path.is_file():
        command = [sys.executable, __file__, "--session", *map(str, files), "--effort", effort, "--output", str(path)]
        subprocess.run(command, check=True)
    return load_session(path)


def rows(files: dict[str, Path], sessions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a file: its latency in every session, and whether the intervals of the first two overlap."""
    found = []
    for key, path in files.items():
        role, precision, target = key.split(" ")
        records = [document["records"][path.name] for document in sessions]
        ratios = [record["ratio"] for record in records]
        bounds = [(ratio["low"], ratio["high"]) for ratio in ratios if ratio and ratio["low"] is not None]
        found.append(
            {
                "role": role,
                "precision": precision,
                "target": target,
                "runtime": RUNTIMES[TARGETS[precision].index(target)],
                "bytes": sessions[0]["artifacts"][path.name]["bytes"],
                "n": [record["n"] for record in records],
                "median_ms": [record["median_ms"] for record in records],
                "p90_ms": [record["p90_ms"] for record in records],
                "p99_ms": [record["p99_ms"] for record in records],
                "memory_mib": records[0]["load_rss_mib"],
                "ratio": ratios,
                "overlaps": max(low for low, _ in bounds) <= min(high for _, high in bounds)
                if len(bounds) > 1
                else None,
            }
        )
    return found


# The runtimes' own tools: each returns the median in ms and n, by one thread, one image at a time


def benchmark_app(path: Path, seconds: float) -> dict[str, Any]:
    """OpenVINO's, with the options that our runner compiles with; its clock is in C++ around the inference alone."""
    options = {"d": "CPU", "hint": "none", "api": "sync", "nthreads": "1", "nstreams": "1", "pin": "NO"}
    options |= {"infer_precision": "f32", "data_shape": f"[1,{SPEC.height},{SPEC.width},{SPEC.channels}]"}
    given = [word for name, value in options.items() for word in (f"-{name}", value)]
    main = "from openvino.tools.benchmark.main import main; main()"  # what the command benchmark_app runs
    said = run([sys.executable, "-c", main, "-m", str(path / "model.xml"), *given, "-t", f"{seconds:g}"])
    unit = {"us": 1e3, "ms": 1.0}
    value, of = re.search(r"Median:\s+([\d.]+) (us|ms)", said).groups()
    return {"median_ms": float(value) / unit[of], "n": int(re.search(r"Count:\s+(\d+) iterations", said)[1])}


# It rounds to 0.01 ms, which is a sixth of a small model's latency: let it write all digits.
UNROUNDED = """
from ai_edge_litert.tools import benchmark_litert_model as tool
tool.round = lambda value, digits: value
tool.main()
"""


def litert_benchmark(path: Path, seconds: float) -> dict[str, Any]:
    """LiteRT's, which uses its compiled model and leaves input and output where they are."""
    with TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        options = ["--num_threads", "1", "--warmup_runs", "200", "--num_runs", str(round(seconds * 2500))]
        run([sys.executable, "-c", UNROUNDED, "--model", str(path), *options, "--result_json", str(result)])
        said = json.loads(result.read_text())["latency"]
    return {"median_ms": said["median_ms"], "n": said["num_runs"]}


TOOLS: dict[str, Callable[[Path, float], dict[str, Any]]] = {"openvino": benchmark_app, "litert": litert_benchmark}
NAMES = {"openvino": "benchmark_app", "litert": "litert-benchmark"}


def run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tools(files: dict[str, Path], rounds: int, seconds: float, work: Path) -> list[dict[str, Any]]:
    """Every file of a tool's format, by the tool and by us in turns."""
    chosen = {key: path for key, path in files.items() if any_artifact(path).format in OF_TOOLS}
    found: dict[str, dict[str, Any]] = {key: {"theirs": [], "ours": []} for key in chosen}
    for number in range(rounds):
        kept = work / f"tools-{number}.json"
        if not kept.is_file():
            theirs = {key: TOOLS[any_artifact(path).format](path, seconds) for key, path in chosen.items()}
            mine = {}
            for key, path in chosen.items():  # alone, as the tool has it
                record = session([path], "rapid", work / f"tools-{number}-{path.name}.json")["records"][path.name]
                mine[key] = {"median_ms": record["median_ms"], "n": record["n"]}
            write_text(kept, json.dumps({"theirs": theirs, "ours": mine}))
        for who, measured in json.loads(kept.read_text()).items():
            for key, value in measured.items():
                found[key][who].append(value)
    return [
        {
            "file": key,
            "tool": NAMES[any_artifact(chosen[key]).format],
            **measured,
            "ours_minus_theirs_us": [
                round(1e3 * (ours["median_ms"] - theirs["median_ms"]), 2)
                for ours, theirs in zip(measured["ours"], measured["theirs"])
            ],
        }
        for key, measured in found.items()
        if measured["ours"]
    ]


def as_markdown(document: dict[str, Any]) -> str:
    shown = []
    for row in document["rows"]:
        ratios = [interval(ratio) if ratio else "1" for ratio in row["ratio"]]
        times = " / ".join(f"{value:.4g}" for value in row["median_ms"])
        p99 = " / ".join("–" if value is None else f"{value:.4g}" for value in row["p99_ms"])
        n = " / ".join(f"{value:,}" for value in row["n"])
        shown.append([f"{row['role']} {row['precision']}", row["runtime"], f"{row['bytes']:,}", n, times, p99, *ratios])
    again = [f"ratio, session {i + 1} [95 %]" for i in range(len(document["rows"][0]["ratio"]))]
    first = table(["", "runtime", "bytes", "n", "median ms", "p99 ms", *again], shown, [2, 3, 4, 5])
    if not document["tools"]:
        return first + "\n"
    compared = []
    for row in document["tools"]:
        medians = [" / ".join(f"{each['median_ms']:.4g}" for each in row[who]) for who in ("theirs", "ours")]
        n = [f"{sum(each['n'] for each in row[who]):,}" for who in ("theirs", "ours")]
        middle = median(row["ours_minus_theirs_us"])
        compared.append([row["file"], row["tool"], medians[0], n[0], medians[1], n[1], f"{middle:+.1f}"])
    second = table(["file", "tool", "its median ms", "n", "ours, ms", "n", "ours − its, us"], compared, range(2, 7))
    return f"{first}\n\n{second}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", default="rapid", choices=list(timing.EFFORTS))
    parser.add_argument("--sessions", type=int, default=2, help="of the same command")
    parser.add_argument("--rounds", type=int, default=5, help="of each tool and us")
    parser.add_argument("--seconds", type=float, default=4, help="of a tool, about")
    parser.add_argument("--work", type=Path, default=Path("runs/runtimes"))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/latency.json"))
    parser.add_argument("--session", nargs="+", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.session:
        export(bench_files(tuple(options.session), effort=options.effort), options.output)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    files = prepare(options.work / "files")
    paths, kept = list(files.values()), options.work / f"session-{options.effort}"
    measured = [session(paths, options.effort, Path(f"{kept}-{i}.json")) for i in range(options.sessions)]
    found = rows(files, measured)
    document = {
        "networks": NETWORKS,
        "effort": options.effort,
        "machine": measured[0]["machine"],
        "other_cpu_percent": [
            max(record["other_cpu_percent"] for record in each["records"].values()) for each in measured
        ],
        "overlap": {
            "k": sum(bool(row["overlaps"]) for row in found),
            "n": sum(row["overlaps"] is not None for row in found),
        },
        "rows": found,
        "tools": tools(files, options.rounds, options.seconds, options.work),
    }
    write_text(options.output, json.dumps(document, indent=1) + "\n")
    print(as_markdown(document))


if __name__ == "__main__":
    main()
