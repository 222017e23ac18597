"""One GPU, less than eight minutes, no network: what kdcompress does on it, against plain PyTorch.

    python benchmarks/gpu.py --output runs/gpu --page docs/gpu.md
    python benchmarks/gpu.py --output runs/gpu --resume        after it was killed, or where a section failed
    python benchmarks/gpu.py --tiny --output runs/gpu-trial    every part in its smallest form; the CPU will do
    python benchmarks/gpu.py --carry FOLDER                    what a machine without a network needs, and how to run it
    python benchmarks/gpu.py --json docs/results/gpu.json --page docs/gpu.md      the page alone; nothing is measured

The sections, each in a process of its own with a limit of its own:

    machine   the GPU, its driver, clocks and memory, versions
    tests     the tests that need a GPU, and how many passed
    training  images a second of `none`, `kd` and `reviewkd`: fp32 (TF32), bf16, channels_last, compiled, CUDA graphs;
              the engine's step and the plain PyTorch loop in turns, views made on the device in both; peak memory
    feeding   images a second of views made on the device, what the input costs a step, the teacher's kept answers
    engines   TensorRT-RTX engines, built without a GPU, and TensorRT's, built here: parity, score, latency, memory
    provider  ONNX Runtime's CUDA provider: the same

What a section finds is in FOLDER/gpu.json as soon as it ends, or is stopped, with its rows until then. A section that
fails has its reason there, and the others go on. A figure has its n; a ratio has an interval where n supports one.
A GPU is needed; without one there is the trial alone, in which what needs a GPU says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from on_gpu.kept import DONE, FAILED, REFUSED, STOPPED, Section
from on_gpu.page import page

from kdcompress.artifact import kept_json, write_text
from kdcompress.console import say
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.errors import ended as ended_by
from kdcompress.export.runtimes import require_gpu

SECONDS = {"machine": 15, "tests": 60, "training": 180, "feeding": 55, "engines": 90, "provider": 35}
GRACE = 5  # seconds that a section has to write down what it found
FILE = "gpu.json"


def work(name: str) -> Callable[[Section], None]:
    """What measures a section; nothing heavy is imported for the others."""
    if name in ("machine", "tests"):
        from on_gpu import machine

        return machine.measure if name == "machine" else machine.run_tests
    if name == "training":
        from on_gpu import training

        return training.measure
    if name == "feeding":
        from on_gpu import feeding

        return feeding.measure
    from on_gpu import files

    return files.measure_engines if name == "engines" else files.measure_provider


def alone(options: argparse.Namespace) -> int:
    """One section, in this process: its exit code is the reason's, which is with what it found."""
    section = Section(
        options.output / f"{options.section}.json", options.seconds, options.tiny, options.files, options.data
    )
    if hasattr(signal, "SIGALRM"):  # also where what started it is gone
        signal.alarm(int(options.seconds) + GRACE)
    section.tell()
    try:
        if not options.tiny and section.device.type != "cuda":
            raise RuntimeMissingError(
                "PyTorch sees no CUDA device.", hint="install a CUDA build of PyTorch, or look at the driver"
            )
        work(options.section)(section)
    except KDCompressError as error:
        section.tell(why=" ".join(str(error).split()))
        return error.exit_code
    return 0


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A section in a process of its own: what it found, and how it ended. What it says is in a file beside."""
    found, seconds = options.output / f"{name}.json", SECONDS[name] * options.scale
    found.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--section", name, "--seconds", f"{seconds:g}", "--output", options.output]
    command += ["--files", options.files, *(["--data", options.data] if options.data else [])]
    command += ["--tiny"] if options.tiny else []
    options.output.mkdir(parents=True, exist_ok=True)
    begun, log = time.monotonic(), options.output / f"{name}.log"
    with log.open("w") as said:
        child = subprocess.Popen(list(map(str, command)), stdout=said, stderr=said, start_new_session=True)
        try:
            code = child.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:
                end(child)
    told = kept_json(found) or {"rows": []}
    status, why = ended(code, log.read_text(errors="replace"))
    return {"status": status, "why": why, "seconds": round(time.monotonic() - begun, 1), **told}


def end(child: subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()


def ended(code: int | None, said: str) -> tuple[str, str]:
    """The status by an exit code, None where time was over; and why, where the section could not tell itself."""
    if code is None or (hasattr(signal, "SIGALRM") and code == -signal.SIGALRM):
        return STOPPED, "its time was over"
    if code == 0:
        return DONE, ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (REFUSED if code == 3 else FAILED), lines[-1][:1000] if lines else ended_by(code)


def day(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the sections that are not done yet; the JSON is written after each."""
    path = options.output / FILE
    there = kept_json(path)
    if there is not None and not options.resume:
        raise UsageError("There is a day already.", where=path, hint="--resume goes on with it; or another --output")
    document = there or {"begun": datetime.now(timezone.utc).isoformat("T", "seconds"), "tiny": options.tiny}
    if document["tiny"] != options.tiny:
        raise UsageError("A trial and a day do not go into one file.", where=path, hint="name another --output")
    sections = document.setdefault("sections", {})
    for name in options.sections:
        if sections.get(name, {}).get("status") == DONE:
            say(f"{name}: there already", style="dim")
            continue
        say(f"{name}: {SECONDS[name] * options.scale:.0f} s at most", style="dim")
        sections[name] = run(name, options)
        write_text(path, json.dumps(document, indent=1))
        say(f"{name}: {sections[name]['status']} {sections[name]['why']}".rstrip(), style="dim")
    return document


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.carry:
        from on_gpu.carry import carry

        wanted = options.wheel, not options.no_wheels
        carry(options.carry, options.data, options.tiny, options.platform, options.python, *wanted)
        return
    if options.json:
        document = kept_json(options.json)
        if not isinstance(document, dict) or "sections" not in document:
            raise UsageError("This is not the JSON of a day.", where=options.json)
        if not options.page:
            raise UsageError("--json makes a page of what was measured.", hint="--page FILE says where")
    else:
        if not options.tiny:
            require_gpu("the day is measured on an NVIDIA GPU", "--tiny tries every part in its smallest form")
        document = day(options)
    if options.page:
        write_text(options.page, page(document))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("runs/gpu"), metavar="FOLDER", help="for gpu.json and what is kept")
    add("--page", type=Path, metavar="FILE", help="write the page, made of the JSON alone")
    add("--json", type=Path, metavar="FILE", help="measure nothing: the page is of this file")
    add("--resume", action="store_true", help="go on: what is done is kept, the rest is measured")
    add("--sections", default=",".join(SECONDS), help=f"comma-separated, of {', '.join(SECONDS)}")
    add("--scale", type=float, default=1.0, help="times the limit of each section: 2 for a slow machine")
    add(
        "--tiny", action="store_true", help="a trial: every part in its smallest form, on the CPU where there is no GPU"
    )
    add("--files", type=Path, metavar="FOLDER", help="network and engines made beforehand (--carry); else made now")
    add("--data", type=Path, metavar="FOLDER", help="that has fashion-mnist in it; else images are made up")
    add(
        "--carry",
        type=Path,
        metavar="FOLDER",
        help="gather wheels, source, data and engines there, and measure nothing",
    )
    add(
        "--platform",
        default="manylinux_2_28_x86_64",
        help="carry: the machine that the wheels are for, as pip names it",
    )
    add("--python", default="3.11", help="carry: its Python")
    add("--wheel", action="append", default=[], metavar="PACKAGE", help="carry: these packages in place of the usual")
    add("--no-wheels", action="store_true", help="carry: no wheels, for a machine that has the packages")
    add("--section", choices=list(SECONDS), help=argparse.SUPPRESS)
    add("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.sections = options.sections.split(",")
    if unknown := [name for name in options.sections if name not in SECONDS]:
        raise unknown_name("section", unknown[0], SECONDS, where="--sections")
    options.files = options.files or options.output / "files"
    return options


if __name__ == "__main__":
    try:
        given = parsed(None)
        sys.exit(alone(given)) if given.section else main()
    except KDCompressError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
