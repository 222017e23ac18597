"""64-bit ARM, emulated on this machine (``bench.arm64``): what artefacts answer there, in numbers, and no latency.

The agent that measures on other machines runs under qemu-user with the arm64 runtime, and its outputs are compared with
those of the runtime here: a scheme for ARM can be held to account on an x86 machine. The address is the folder that
keeps the arm64 system, by default $KDCOMPRESS_ARM64 or one in the user's cache; it is assembled at the first use.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdcompress.artifact import user_cache
from kdcompress.bench import arm64
from kdcompress.bench.agent import procfs
from kdcompress.bench.agent.facts import PACKAGES
from kdcompress.bench.devices import Request, Session, devices, only
from kdcompress.bench.record import Record
from kdcompress.bench.remote.answer import read_answer, session, suited
from kdcompress.bench.remote.sent import write_agent, write_job
from kdcompress.bench.timing import Progress, check
from kdcompress.errors import KDCompressError, ended

FORMATS = ("onnx", "ort", "litert", "ncnn", "mnn")


@devices.register("emulated-arm64")
def bench(request: Request, address: str, progress: Progress) -> Session:
    """Records without a single sample, and parity."""
    name = "emulated-arm64"
    only(request, name, scenarios=("single-stream",))
    check(list(request.artifacts), request.images, request.effort, request.scenario, request.baseline)
    missing = {a.format: why for a in request.artifacts.values() if (why := _missing(a.format))}
    request, left_out = suited(request, name, {"architecture": "aarch64", "missing": missing})
    kept = address or os.environ.get("KDCOMPRESS_ARM64") or user_cache() / "arm64"
    progress(0.0, "preparing the arm64 system")
    formats = {artifact.format for artifact in request.artifacts.values()}
    packages = dict.fromkeys(PACKAGES[each] for each in FORMATS if each in formats)
    root = arm64.prepare(Path(kept), (*packages, "numpy"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with (folder / "agent.pyz").open("wb") as file:
            write_agent(file, request.open)
        with tempfile.TemporaryFile() as job:
            write_job(job, request, limit_s=arm64.LIMIT_S, timed=False)
            job.seek(0)
            with tarfile.open(fileobj=job) as tar:
                tar.extractall(folder)
        os.replace(folder / "job.partial", folder / "job.json")
        (folder / "lib").mkdir()
        shutil.copyfile(procfs.__file__, folder / "lib" / "psutil.py")
        progress(0.1, "running under qemu")
        path = os.pathsep.join(map(str, (root / "site", folder / "lib")))
        done = arm64.run(root, folder / "agent.pyz", "measure", folder, environment={"PYTHONPATH": path})
        if not (folder / "result.json").exists():
            said = (done.stderr or done.stdout).strip().splitlines()
            got = f"{ended(done.returncode)}: {said[-1][:300] if said else 'no message'}"
            raise KDCompressError("The agent failed in the emulated system.", where=root, got=got)
        answer = read_answer(folder / "result.json", name)
    found = session(answer, request, f"{name} (qemu, {arm64.CPU})", left_out)
    found.notes.insert(0, "Emulated: outputs were compared; how long they took tells nothing of an ARM processor.")
    for label, artifact in request.artifacts.items():
        outputs = answer.get("outputs", {}).get(label, {})
        record = Record(label, request.effort, artifact.input.batch or 1, subjects=len(request.artifacts))
        record.failed, record.runtime = outputs.get("failed"), outputs.get("runtime", {})
        record.warmup_stable = True  # there is none
        found.records[label] = record
    progress(1.0, "compared")
    return found


def _missing(format: str) -> dict[str, str] | None:
    if format not in FORMATS:
        return {"got": f"it runs {', '.join(FORMATS)}"}
    package = PACKAGES[format]
    try:
        version(package)
    except PackageNotFoundError:
        return {"got": f"{package} is not installed here: it is emulated in the same version"}
    return None
