"""What a machine with a GPU and without a network needs: the source, the wheels, the data and the engines."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from kdcompress.artifact import write_text
from kdcompress.errors import KDCompressError, UsageError
from on_gpu.files import SOURCE, build_ahead, images_of

ROOT = Path(__file__).parents[2]
PLATFORM, PYTHON = "manylinux_2_28_x86_64", "3.11"
ALSO = ("pytest>=8", "tensorrt>=10.12,<12", "tensorrt-rtx>=1.7,<2", "onnxruntime-gpu>=1.20")
RUN = """#!/bin/sh
# Runs the day; no network is used.
set -e
cd "$(dirname "$0")"
tar xzf source.tar.gz
@PYTHON@
cd source
exec env PYTHONPATH="$PWD" "$python" benchmarks/gpu.py --files ../files@DATA@ --output ../results \\
    --page ../results/gpu.md "$@"
"""
INSTALLED = "python=${PYTHON:-python3}"
WHEELS = """${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet --no-index --find-links wheels -r wheels/asked.txt
python=../venv/bin/python"""
READ_ME = """# The GPU day of kdcompress, carried

On a machine with an NVIDIA GPU, its driver (no CUDA toolkit) and Python {python}, without a network:

    sh run.sh

It takes less than 8 minutes beside the installation and writes `results/gpu.json` and `results/gpu.md`. After an
interruption: `sh run.sh --resume`. Bring `results` back.

| what | is |
|---|---|
| `source.tar.gz` | kdcompress as it was when this was gathered, with its benchmarks and tests |
| `wheels` | packages for {platform}, Python {python}: {wheels} |
| `files` | a trained network, its ONNX file and TensorRT-RTX engines: {files} |
| `data` | {data} |

onnxruntime-gpu takes the place of onnxruntime. TensorRT-RTX has no kernels for some GPUs (an H200, say): there
TensorRT alone is measured.
"""


def carry(
    folder: Path,
    data: Path | None,
    tiny: bool,
    platform: str = PLATFORM,
    python: str = PYTHON,
    packages: Sequence[str] = (),
    wheels: bool = True,
) -> None:
    """Fills ``folder``, which must not be there yet. Raises KDCompressError where pip finds no wheel of a package."""
    if folder.exists():
        raise UsageError("The folder is there already.", where=folder, hint="name another, or remove it")
    if data is not None and not (data / SOURCE).is_dir():
        raise UsageError("There are no images to carry.", where=data / SOURCE, hint="leave --data out")
    folder.mkdir(parents=True)
    pack(folder / "source.tar.gz")
    asked = list(packages) or requirements()
    (folder / "wheels").mkdir()
    if wheels:
        download(asked, folder / "wheels", platform, python)
    write_text(folder / "wheels/asked.txt", "\n".join(asked) + "\n")
    built = build_ahead(folder / "files", images_of(data, tiny), tiny)
    if data is not None:
        shutil.copytree(data / SOURCE, folder / "data" / SOURCE)
    facts = {
        "platform": platform,
        "python": python,
        "wheels": f"{len(list((folder / 'wheels').glob('*.whl')))} files" if wheels else "left out",
        "files": "; ".join(f"{name}: {told}" for name, told in built.items()),
        "data": f"the files of {SOURCE}" if data is not None else "none: images are made there",
    }
    write_text(folder / "README.md", READ_ME.format(**facts))
    script = RUN.replace("@PYTHON@", WHEELS if wheels else INSTALLED)
    write_text(folder / "run.sh", script.replace("@DATA@", " --data ../data" if data is not None else ""))


def pack(path: Path) -> None:
    """All files that git knows, as they are now; links stay links."""
    try:
        told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise KDCompressError("The files of kdcompress are packed from a checkout of git.", where=ROOT) from error
    with tarfile.open(path, "w:gz") as tar:
        for name in filter(None, told.decode().split("\0")):
            if (ROOT / name).is_symlink() or (ROOT / name).is_file():
                tar.add(ROOT / name, f"source/{name}")


def requirements() -> list[str]:
    """kdcompress's own, as setup.py has them, and what the day measures beside; onnxruntime-gpu for onnxruntime."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    asked = next(node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires")
    own = [each for each in ast.literal_eval(asked.value) if not each.startswith("onnxruntime")]
    return [*own, *ALSO]


def download(packages: Sequence[str], folder: Path, platform: str, python: str) -> None:
    """The wheels of the packages and of all that they need, for another machine than this one maybe."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--only-binary=:all:"]
    # An older manylinux is a newer one's too; pip takes only what it is told.
    older = [platform, *(p for p in platforms(platform) if p != platform)]
    command += [word for name in older for word in ("--platform", name)]
    done = subprocess.run([*command, "--python-version", python, *packages], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-500:]]
        raise KDCompressError("pip cannot download the wheels.", got=" ".join(said[:2]), hint="--no-wheels leaves them")


def platforms(newest: str) -> list[str]:
    """The tags of wheels that a system of this one takes: manylinux_2_28_x86_64 -> 2_28 ... 2_5, and the old names."""
    kind, _, rest = newest.partition("_2_")
    minor, _, processor = rest.partition("_")
    if kind != "manylinux" or not minor.isdigit():
        return [newest]
    found = [f"manylinux_2_{number}_{processor}" for number in range(int(minor), 4, -1)]
    return [*found, *(f"{old}_{processor}" for old in ("manylinux2014", "manylinux2010", "manylinux1"))]
