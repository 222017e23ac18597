"""64-bit ARM on an x86 machine: Debian's Python and the ONNX Runtime of arm64 in a folder, run by qemu-user.

    apt-get install qemu-user-static
    python -m kdcompress.bench.arm64 FOLDER

It answers as an ARM processor with dot product instructions does, and tells nothing of its speed: a ResNet-20 took some
600 times as long as on the machine itself in fp32, and 160 times in int8. It needs apt (Debian), and no root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from kdcompress.artifact import remove
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError

EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
CPU = "neoverse-n1"
# onnxruntime reads this file when it is imported, and crashes where it finds the x86 machine's, as qemu 7 shows it. It
# has to be of the CPU that qemu is told to be: one that lists other instructions ends in SIGILL.
CPUINFO = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
LIMIT_S = 600


def emulator() -> str:
    """qemu's program. Raises RuntimeMissingError where it is not installed."""
    found = next(filter(None, map(shutil.which, EMULATORS)), None)
    if found is None:
        raise RuntimeMissingError(
            "qemu-user, which runs programs for arm64, is not installed.",
            got=" and ".join(f"no {name}" for name in EMULATORS),
            hint="apt-get install qemu-user-static",
        )
    return found


def prepare(folder: Path, packages: Sequence[str] = ("onnxruntime", "numpy")) -> Path:
    """The root of an arm64 system in ``folder``, assembled where it is not there yet: Debian's Python from its packages
    and, of ``packages``, the wheels for arm64 of the versions that are installed here. About 170 MB.

    Raises RuntimeMissingError without qemu or apt, KDCompressError where something cannot be had.
    """
    emulator()
    named = [f"{name}=={version(name)}" for name in packages]
    root = folder / "-".join(["arm64", *named])
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
        if not root.is_dir():  # another process may have made it
            made = Path(scratch, "root")
            _debian(made)
            _wheels(made, named)
            (made / "proc").mkdir()
            (made / "proc" / "cpuinfo").write_text(CPUINFO)
            made.replace(root)
    return root


def run(
    root: Path, program: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python program there, with the wheels to import from; files are those of this machine.

    Raises KDCompressError where it takes longer than ten minutes.
    """
    python = _python(root)
    variables = {**os.environ, "PYTHONPATH": str(root / "site"), "OMP_NUM_THREADS": "1", **(environment or {})}
    command = [emulator(), "-cpu", CPU, "-L", str(root), str(python), "-B", str(program), *map(str, arguments)]
    try:
        return subprocess.run(
            command, env=variables, capture_output=True, encoding="utf-8", errors="replace", timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise KDCompressError("The emulated program did not end in time.", where=program, got=f"{LIMIT_S} s") from error


def _python(root: Path) -> Path:
    """python3.11, say: whichever Debian's release has."""
    found = [path for path in sorted((root / "usr/bin").glob("python3.*")) if path.name[8:].isdigit()]
    if not found:
        raise UsageError("There is no arm64 system in this folder.", where=root, hint="remove it, and prepare it again")
    return found[-1]


def _debian(root: Path) -> None:
    """Extract the packages and what they depend on, by an apt with lists, cache and status of its own."""
    if not shutil.which("apt-get"):
        raise RuntimeMissingError("apt-get is not installed; it downloads Debian's packages.")
    state = root / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    apt = ["apt-get", "-q", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    _done([*apt, "update"])
    _done([*apt, "install", "--download-only", "--yes", "--no-install-recommends", *DEBIAN])
    for package in sorted((state / "cache/archives").glob("*.deb")):
        _done(["dpkg-deb", "--extract", str(package), str(root)])
    remove(state)


def _wheels(root: Path, named: Sequence[str]) -> None:
    platforms = [part for name in WHEELS for part in ("--platform", name)]
    python = _python(root).name.removeprefix("python")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--implementation", "cp"]
    _done([*command, *platforms, "--python-version", python, "--target", str(root / "site"), *named])


def _done(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LIMIT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
        said = (done.stderr or done.stdout).strip()
    except subprocess.TimeoutExpired:
        said = f"it did not end within {LIMIT_S} s"
    else:
        if not done.returncode:
            return
    raise KDCompressError(
        "The arm64 system cannot be assembled.",
        got=f"{' '.join(command[:1])}: {' | '.join(said.splitlines()[-3:])[:400]}",
        hint="it needs apt-get of Debian, pip, and the network that they use",
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m kdcompress.bench.arm64 FOLDER")
    try:
        print(prepare(Path(sys.argv[1])))
    except KDCompressError as error:
        sys.exit(str(error))
