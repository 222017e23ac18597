"""Twelve kinds of network, trained, in int8: what each runtime's file loses, whether it is faster, and its rung.

    OMP_NUM_THREADS=1 python benchmarks/kinds.py --output docs/results/kinds.json --page docs/results.md
    python benchmarks/kinds.py --only repvgg_a0,regnety_002 train.images=2000

Each is a run of the recipe `fashion-mnist-kinds` in a folder of ``--work``, by the command line: what was done is not
done again, and a run that was stopped goes on. Words behind the options are overrides of the recipe for all of them.
Between its marks, the page gets the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdcompress.artifact import write_text
from kdcompress.errors import KDCompressError, UsageError, unknown_name

RECIPE = "fashion-mnist-kinds"
VIT = "{img_size: 32, patch_size: 4, depth: 6, embed_dim: 96, num_heads: 3}"
KINDS: dict[str, tuple[str, list[str]]] = {  # timm's name: what is new in it, and overrides
    "resnet10t": ("residual", []),
    "repvgg_a0": ("branches that are merged", []),
    "mobileone_s0": ("branches that are merged, depthwise", []),
    "mobilenetv2_035": ("inverted residuals", []),
    "mobilenetv3_small_050": ("squeeze-excite, hard-swish", []),
    "regnety_002": ("squeeze-excite, groups", []),
    "ghostnet_050": ("ghost modules", []),
    "convnext_atto": ("ConvNeXt: layer norms, GELU", []),
    "mobilevitv2_050": ("hybrid: convolutions, linear attention", ["student.size=64"]),
    "efficientvit_b0": ("hybrid: linear attention, hard-swish", ["student.size=64"]),
    "vit_tiny_patch16_224": ("transformer", [f"student.options={VIT}"]),
    "gmlp_ti16_224": ("MLP", ["student.size=64", "student.options={img_size: 64}", "train.images=40000"]),
}
MARKS = "<!-- kinds: begin -->", "<!-- kinds: end -->"


def run(name: str, folder: Path, overrides: list[str]) -> None:
    """Raises KDCompressError where the run ends before its report."""
    words = [f"student.model=timm/{name}", *KINDS[name][1], *overrides]
    command = [sys.executable, "-m", "kdcompress", "run", RECIPE, "--output", str(folder), *words]
    ended = subprocess.run(command, check=False)
    if not (folder / "report.json").is_file():
        raise KDCompressError(f"{name} has no report.", got=f"exit code {ended.returncode}", where=folder)


def record(name: str, folder: Path) -> dict[str, Any]:
    """What its report says of its fp32 file and of those in int8."""
    report = json.loads((folder / "report.json").read_text())
    rows = {row["target"]: row for row in report["rows"] if row["role"] == "student"}
    parent = rows.pop(None)
    files = {target: _file(row) for target, row in rows.items() if row["precision"] == "int8"}
    about = {key: parent[key] for key in ("parameters", "bytes", "score")}
    return {"name": name, "kind": KINDS[name][0], **about, "files": files, "machine": report["machine"]}


def _file(row: dict[str, Any]) -> dict[str, Any]:
    kept = next((rung for rung in row["ladder"] or () if rung["kept"]), None)
    layers = (row["coverage"] or {}).get("conv", {}), (row["coverage"] or {}).get("gemm", {})
    counts = {precision: sum(each.get(precision, 0) for each in layers) for precision in ("int8", "fp32")}
    found = {key: row[key] for key in ("status", "why", "bytes", "score", "drop", "drop_to_parent", "ratio")}
    return {**found, "rung": kept and kept["rung"], "what": kept and kept["what"], "layers": counts}


def cell(file: dict[str, Any]) -> str:
    """Points lost, latency over fp32's, layers that stayed in float, and the rung where it was not the first."""
    if file["score"] is None:
        return f"{file['status']}: {file['why']}"
    ratio, layers = file["ratio"], file["layers"]
    found = [f"{file['drop']:.2f}"]
    if ratio:
        found.append(
            f"{ratio['median']:.2f}×" + (" (no difference)" if ratio["verdict"] == "no difference shown" else "")
        )
    if layers["fp32"]:
        found.append(f"{layers['fp32']} of {sum(layers.values())} in float")
    if file["rung"] not in (None, "calibration"):
        found.append(file["rung"])
    return ("**failed** " if file["status"] == "failed" else "") + ", ".join(found)


def page(records: list[dict[str, Any]]) -> str:
    targets = list(dict.fromkeys(target for each in records for target in each["files"]))
    lines = [f"| network | kind | M | fp32 % | {' | '.join(f'`{target}`' for target in targets)} |"]
    lines.append(f"|---|---|---:|---:|{'---|' * len(targets)}")
    for each in records:
        cells = [cell(each["files"][target]) if target in each["files"] else "–" for target in targets]
        about = f"{each['parameters'] / 1e6:.2f} | {each['score']:.2f}"
        lines.append(f"| {each['name']} | {each['kind']} | {about} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(KINDS), help="comma-separated")
    parser.add_argument("--kept", action="store_true", help="run nothing: what has a report is written")
    parser.add_argument("--work", type=Path, default=Path("runs/kinds"), help="where the runs are")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file of all records")
    parser.add_argument("--page", type=Path, help="a Markdown file with the two marks")
    parser.add_argument("overrides", nargs="*", help="of the recipe, as KEY=VALUE")
    options = parser.parse_args(arguments)
    for name in options.only:
        if name not in KINDS:
            raise unknown_name("network", name, KINDS)
    text = options.page.read_text() if options.page else ""
    if options.page and not all(mark in text for mark in MARKS):
        raise UsageError("The page has no place for the table.", where=options.page, allowed=" and ".join(MARKS))
    records = []
    for name in options.only:
        folder = options.work / name
        if not options.kept:
            run(name, folder, options.overrides)
        if (folder / "report.json").is_file():
            records.append(record(name, folder))
    print(page(records))
    if options.output:
        write_text(options.output, json.dumps(records, indent=1) + "\n")
    if options.page:
        (before, _), (_, after) = text.split(MARKS[0], 1), text.split(MARKS[1], 1)
        write_text(options.page, f"{before}{MARKS[0]}\n{page(records)}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
