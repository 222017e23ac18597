"""The page of a day on a GPU, made of its JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tables import interval

from kdcompress.report.markdown import table
from on_gpu.kept import DONE

TITLES = {
    "machine": "The machine",
    "tests": "The tests that need a GPU",
    "training": "Training",
    "feeding": "Input and the teacher's answers",
    "engines": "TensorRT engines",
    "provider": "ONNX Runtime's CUDA provider",
}
UNTIMED = {"median_ms": None, "p90_ms": None, "failed": "no time was left", "device_mib": None, "n": 0}
Rows = Sequence[dict[str, Any]]


def page(document: dict[str, Any]) -> str:
    parts = ["# On a GPU", introduction(document)]
    for name, title in TITLES.items():
        section = document["sections"].get(name)
        if section is None:
            parts += [f"## {title}", "Not measured."]
            continue
        parts.append(f"## {title}")
        if section["status"] != DONE:
            parts.append(f"**{section['status'].capitalize()}** after {section['seconds']:.0f} s: {section['why']}")
        parts += [text for text in SHOWN[name](section) if text] if section["rows"] or name == "machine" else []
    return "\n\n".join(parts) + "\n"


def introduction(document: dict[str, Any]) -> str:
    command = "python benchmarks/gpu.py --output runs/gpu --page docs/gpu.md"
    told = f"```console\n$ {command}\n```\n\nMade from the JSON of that command, begun {document['begun']}."
    told += " Intervals are of 95 %; ratios are of blocks taken in turns."
    if document["tiny"]:
        told += "\n\n**A trial (`--tiny`): it shows that the parts work, and its figures say nothing.**"
    return told


def of_machine(section: dict[str, Any]) -> list[str]:
    if "machine" not in section:
        return []
    machine = section["machine"]
    gpu = machine["gpu"] or {"name": "none"}
    facts = {"GPU": gpu["name"], "driver": gpu.get("driver"), "CPU": f"{machine['cpu']}, {machine['threads']} threads"}
    facts |= section["versions"] | (section.get("clocks") or {})
    return [table(("what", "is"), facts.items())]


def of_tests(section: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{number} {name}" for name, number in section.get("counts", {}).items())
    bad = [row["test"] for row in section["rows"] if row["test"].startswith(("FAILED", "ERROR"))]
    return [f"{counts or 'none'}, of {section.get('files', 0)} files.", *(f"- `{line}`" for line in bad)]


def of_training(section: dict[str, Any]) -> list[str]:
    head = ("method", "teacher -> student", "pixels", "batch", "loop", "setting", "images a second")
    head += ("times the plain loop's", "times the first row's", "peak, MiB", "n")
    body = [
        (
            *(row["method"], f"{row['teacher']} -> {row['student']}", row["size"], row["batch"], row["loop"]),
            row["setting"] + (f" ({row['compiled']})" if row["compiled"].startswith("no") else ""),
            f"{row['images_per_second']:,.0f}",
            *(shown(row["times_faster"]), shown(row["times_first"]), number(row["peak_mib"]), row["n"]),
        )
        for row in section["rows"]
    ]
    left = section.get("left_out")
    set_to = "Settings: " + ", ".join(f"{name} {value}" for name, value in section.get("settings", {}).items()) + "."
    why = "`plain loop`: the same networks, losses and images in plain PyTorch. Peak memory is what PyTorch allocated "
    why += "for that variant, beside those that were there before it."
    return [table(head, body, (6, 9, 10)), why, set_to, f"No time was left for: {'; '.join(left)}." if left else ""]


def of_feeding(section: dict[str, Any]) -> list[str]:
    views, step, answers = (_part(section["rows"], part) for part in ("views", "input", "answers"))
    made = [
        (r["views"], r["size"], r["batch"], f"{r['images_per_second']:,.0f}", number(r["peak_mib"]), r["n"])
        for r in views
    ]
    steps = [(r["input"], r["batch"], f"{r['step_ms']:.2f}", shown(r["of_the_step_without"]), r["n"]) for r in step]
    kept = [
        (
            r["answers"],
            number(r["hit_percent"]),
            ", ".join(f"{rate:,.0f}" for rate in r["images_per_second"]),
            number(r["peak_mib"]),
            r["n"],
        )
        for r in answers
    ]
    return [
        table(("views on the device", "pixels", "batch", "images a second", "peak, MiB", "n"), made, (3, 4, 5)),
        "What the input costs a step of `kd`: times the step on a batch that is there already. 1: nothing waits.",
        table(("input", "batch", "step, ms", "times", "n"), steps, (2, 4)),
        "Whole trainings by `kd`; images a second of each epoch, validation and checkpoints with it. n: epochs, of one "
        "training each.",
        table(("the teacher's answers", "read, %", "images a second by epoch", "peak, MiB", "n"), kept, (1, 3, 4)),
    ]


def of_files(section: dict[str, Any]) -> list[str]:
    head = ("file", "precision", "score, %", "parity", "median, ms", "p90, ms", "times fp32 on the CPU", "GPU, MiB")
    body = []
    for row in section["rows"]:
        if "latency" not in row:
            why = row.get("refused") or row.get("failed")
            body.append((row["target"], f"{'refused' if 'refused' in row else 'failed'}: {why}", *[None] * 7))
            continue
        latency, parity = row["latency"] or UNTIMED, row["parity"]
        same = "the reference" if parity is None else "passed" if parity["passed"] else f"not passed: {parity['why']}"
        times = (latency["median_ms"], latency["p90_ms"])
        body.append(
            (
                *(row["target"], row["precision"], f"{row['score']:.2f}", same),
                *(None if ms is None else f"{ms:.3f}" for ms in times),
                *(latency["failed"] or shown(latency["ratio"]), number(latency["device_mib"]), latency["n"]),
            )
        )
    told = f"Score on {section.get('test_images', 0):,} test images of {section.get('source')}; latency of one image, "
    return [table((*head, "n"), body, (2, 4, 5, 7, 8)), told + "copied in and out."]


SHOWN: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "machine": of_machine,
    "tests": of_tests,
    "training": of_training,
    "feeding": of_feeding,
    "engines": of_files,
    "provider": of_files,
}


def _part(rows: Rows, part: str) -> Rows:
    return [row for row in rows if row["part"] == part]


def shown(ratio: dict[str, Any] | None) -> str:
    return "" if ratio is None else interval(ratio)


def number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"
