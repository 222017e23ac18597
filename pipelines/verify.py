"""Whether a bundle is what was packed, whose it is, and whether its model gives here what it should."""

from __future__ import annotations

import json
import os
import re
import signal
import site
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from kdcompress.artifact import sha256
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, some
from kdcompress.pipelines import signing
from kdcompress.pipelines.unpack import unpacked

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
MOST_BYTES = 4 * 2**20  # of the list, of model.json and of what the self-check says
SHOWN = 20  # files in a message
TIMEOUT_S = 600.0


def verify(bundle: Path, signers: Path | None = None, run: bool = True, timeout_s: float = TIMEOUT_S) -> str:
    """What the bundle's own self_check.py prints, run by this Python in a process of its own that imports nothing from
    the bundle's folder or the current one in place of what is installed. It is run only once the list of files, and
    with ``signers`` its signature, hold. An archive is unpacked into a temporary folder for it.

    Raises UsageError where there is no bundle, KDCompressError where a check fails or takes longer than
    ``timeout_s``, RuntimeMissingError where the model's runtime is not installed.
    """
    if not bundle.is_file():
        again = "unpack it again into an empty folder, or remove what was made there, such as Python's __pycache__"
        return _verify(bundle, signers, run, timeout_s, again)
    with unpacked(bundle) as folder:
        try:
            return _verify(folder, signers, run, timeout_s, "get the archive again: it was changed, or damaged")
        except KDCompressError as error:
            within = str(error.parts.get("where")).startswith(str(folder))
            raise error.at(bundle) if within else error from None


def _verify(folder: Path, signers: Path | None, run: bool, timeout_s: float, again: str) -> str:
    if not (folder / SUMS).is_file():
        raise _no_bundle(folder)
    said = []
    if signers:
        said.append(f"signed by {signing.signer(folder / SUMS, signers)}")
    elif (folder / SIGNATURE).is_file():
        said.append("its signature was not checked: --signer")
    if wrong := differences(folder):
        raise KDCompressError("The bundle is not as it was packed.", where=folder, got=some(wrong, SHOWN), hint=again)
    said.append(_self_check(folder, timeout_s) if run else "every file is as listed; the model was not run")
    return "\n".join(said)


def _no_bundle(folder: Path) -> UsageError:
    if not folder.exists():
        return UsageError("There is no such bundle.", where=folder, hint="give what `kdcompress bundle` wrote")
    inside = [path.parent for pattern in (f"*/{SUMS}", f"bundle/*/{SUMS}") for path in sorted(folder.glob(pattern))]
    hint = f"give the bundle in it: {some([str(path) for path in inside])}"
    other = "give the folder or the .tar.gz that `kdcompress bundle` wrote"
    got = f"no file {SUMS}"
    return UsageError("This is not a bundle.", where=folder, got=got, hint=hint if inside else other)


def differences(folder: Path) -> list[str]:
    """What SHA256SUMS says of the folder that is not so, and what is there besides. Nothing of the bundle runs."""
    listed, wrong = _listed(folder)
    there = _there(folder)
    for name, expected in listed.items():
        if (kind := there.pop(name, "missing")) != "file":
            wrong.append(f"{kind}: {name}")
        elif sha256(folder / name) != expected:
            wrong.append(f"damaged: {name}")
    there = {name: kind for name, kind in there.items() if name not in (SUMS, SIGNATURE) or kind != "file"}
    return wrong + [
        f"not in the list: {name}" + ("" if kind == "file" else f" ({kind})") for name, kind in sorted(there.items())
    ]


def _listed(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The hashes by name, and what is wrong with the list itself."""
    path = folder / SUMS
    if path.is_symlink() or path.stat().st_size > MOST_BYTES:
        return {}, [f"{SUMS} is a link" if path.is_symlink() else f"{SUMS} has {path.stat().st_size:,} bytes"]
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return {}, [f"{SUMS} is not UTF-8"]
    listed: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(lines, 1):
        found = LINE.fullmatch(line)
        name = found[2] if found else ""
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name or name in (*listed, SUMS, SIGNATURE):
            wrong.append(f"{SUMS}, line {number}: not a new file of this folder")
        else:
            listed[name] = line[:64]
    needed = ("self_check.py", "infer.py", "model.json", "expected.json", "sample.bin")
    return listed, wrong + [f"{SUMS} does not list {name}" for name in needed if name not in listed]


def _there(folder: Path) -> dict[str, str]:
    """What kind everything in the folder is, by its name; folders only where they are empty."""
    kinds = {}
    for place, folders, names in os.walk(folder, followlinks=False):
        for name in [*names, *folders]:
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                if not any(path.iterdir()):
                    kinds[path.relative_to(folder).as_posix()] = "an empty folder"
                continue
            kind = "file" if stat.S_ISREG(mode) else "a link" if stat.S_ISLNK(mode) else "no plain file"
            kinds[path.relative_to(folder).as_posix()] = kind
    return kinds


def _self_check(folder: Path, timeout_s: float) -> str:
    program = (folder / "self_check.py").resolve()
    # As -I, but with the user's own packages where this process has them.
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []  # self_check.py does it itself before 3.11
    isolated = ["-E", *safe_path] if site.ENABLE_USER_SITE else ["-I"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with TemporaryDirectory() as empty, Path(empty, "said").open("w+b") as words:
        process = subprocess.Popen(
            [sys.executable, *isolated, "-B", str(program)],
            env=environment, cwd=empty, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise KDCompressError(
                "The self-check did not end in time.",
                where=folder,
                got=f"{timeout_s:g} s",
                hint="--timeout gives it longer",
            ) from error
        finally:
            _end(process)
        words.seek(max(0, words.seek(0, os.SEEK_END) - 4000))
        said = words.read().decode(errors="replace").strip()
    if status == 3:
        raise RuntimeMissingError(
            "The files are whole; the model was not run.", where=folder, got=said, hint=_install(folder)
        )
    if status or "OK: " not in said:
        got = said or (f"the process was ended by {signal.Signals(-status).name}" if status < 0 else f"status {status}")
        raise KDCompressError("The self-check failed.", where=folder, got=got)
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    """And what it started."""
    if os.name == "posix":
        with suppress(OSError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _install(folder: Path) -> str | None:
    try:
        found = json.loads((folder / "model.json").read_text(encoding="utf-8"))["runtime"]["install"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
