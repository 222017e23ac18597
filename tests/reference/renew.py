"""Makes the records of the reference networks anew, and prints what changed.

make reference                       all networks and targets
make reference SPEED=--speed         and how fast each file is beside its parent, on this kind of machine
python tests/reference/renew.py residual --targets x86-vnni onnx-fp16
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reference_bounds import versions_changed
from reference_files import NAMES, PARENT, RECORDED, read, write
from reference_record import Reference, record_of, reference

from kdcompress.artifact import Artifact, write_text
from kdcompress.bench.machine import machine
from kdcompress.data.fetch import fetch
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import availability, target
from kdcompress.pipelines.measure import bench_files

FIGURES = ("score", "agreement", "worst", "error", "gain", "rounding", "bytes", "coverage")


def renewed(its: Reference, asked: Sequence[str], speed: bool) -> dict[str, Any]:
    """The network's record with these targets anew. Those that cannot be built here keep what they had."""
    old, files = read(its.name), {}
    for name in asked:
        try:
            files[name] = its.parent if name == PARENT else its.built(target(name))
            old.setdefault("files", {})[name] = record_of(its, None if name == PARENT else target(name), files[name])
        except KDCompressError as error:
            print(f"{its.name}, {name} keeps its record:\n{error}", file=sys.stderr)
            continue
        print(f"{its.name}, {name}", file=sys.stderr, flush=True)
    here = machine()
    new = {
        "made": old["made"],
        "images": its.fixed.hash,
        "machine": {key: here[key] for key in ("cpu", "isa", "architecture", "python")},
        "files": {name: old["files"][name] for name in sorted(old["files"])},
    }
    speeds = old.get("speed", {})
    if speed:
        speeds[" ".join([here["cpu"], here["architecture"], *here["isa"]])] = ratios(its, files)
    return new | ({"speed": speeds} if speeds else {})


def ratios(its: Reference, files: dict[str, Artifact]) -> dict[str, float]:
    """The time of each file that runs here as a share of its parent's, one thread, in turns."""
    run = {name: a for name, a in files.items() if name == PARENT or all(availability(target(name))[:2])}
    for artifact in run.values():
        write_text(artifact.path.with_name(artifact.path.name + ".json"), json.dumps(artifact.to_json()))
    paths = {artifact.path: name for name, artifact in run.items()}
    session = bench_files((its.parent.path, *(set(paths) - {its.parent.path})), effort="rapid")
    named = {path.name: name for path, name in paths.items()}
    return {named[label]: round(ratio["median"], 2) for label, ratio in sorted(session["ratios"].items())}


def changes(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[list[str]]:
    """A row for each figure that changed: network, target, figure, before, now, versions."""
    for asked, now in new.items():
        before = old.get(asked)
        if before is None:
            yield [name, asked, "record", "none", "new", ""]
            continue
        for figure in FIGURES:
            if before.get(figure) != now.get(figure):
                shown = [str(each.get(figure, "none")) for each in (before, now)]
                yield [name, asked, figure, *shown, versions_changed(before, now)]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the records of the reference networks anew.")
    parser.add_argument("names", nargs="*", default=list(NAMES), help="networks; default: all")
    parser.add_argument("--targets", nargs="*", default=list(RECORDED), help="default: all that are recorded")
    parser.add_argument("--speed", action="store_true", help="time the files too, for this kind of machine")
    options = parser.parse_args()
    data, rows = fetch("fashion-mnist", Path(os.environ.get("KDCOMPRESS_DATA", "datasets"))), []
    for name in options.names:
        old = read(name).get("files", {})
        with tempfile.TemporaryDirectory() as folder:
            new = renewed(reference(name, data, Path(folder)), options.targets, options.speed)
        write(name, new)
        rows += changes(name, old, new["files"])
    head = ["network", "target", "figure", "recorded", "now", "versions"]
    print(aligned([head, *rows]) if rows else "Nothing changed.")


if __name__ == "__main__":
    main()
