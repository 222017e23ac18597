"""Section 1: the machine. Section 2: the tests that need a GPU, in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kdcompress.bench.machine import device_memory_mib, machine, versions_of
from kdcompress.errors import KDCompressError
from on_gpu.kept import Section

ROOT = Path(__file__).parents[2]
ASKED = (  # of nvidia-smi
    *("name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("memory.total", "memory.used", "power.limit", "temperature.gpu", "persistence_mode", "mig.mode.current"),
)
RUNTIMES = ("tensorrt", "tensorrt-rtx", "onnxruntime", "onnxruntime-gpu", "accelerate", "triton", "nvidia-cudnn-cu13")
COUNTED = ("passed", "failed", "skipped", "error", "errors", "xfailed", "xpassed")


def measure(section: Section) -> None:
    section.tell(machine=machine(), versions=versions(), clocks=asked_of_the_driver())
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found = torch.cuda.get_device_properties(0)
        section.tell(
            memory={"total_mib": total / 2**20, "free_mib": free / 2**20, "used_by_all_mib": device_memory_mib()},
            multiprocessors=found.multi_processor_count,
        )


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__, "cuda of torch": str(torch.version.cuda)}
    if torch.backends.cudnn.is_available():
        found["cudnn of torch"] = str(torch.backends.cudnn.version())
    return found | versions_of(RUNTIMES)


def settings() -> dict[str, Any]:
    """What decides how PyTorch computes in fp32 and chooses its kernels."""
    return {
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def asked_of_the_driver() -> dict[str, str] | None:
    """What nvidia-smi says of the first GPU, with its units; None where there is none."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in done.stdout.strip().split("\n")[0].split(",")]
    return dict(zip(ASKED, values, strict=True)) if len(values) == len(ASKED) else None


def run_tests(section: Section) -> None:
    """Raises KDCompressError where one of them failed, or none could be looked for."""
    files = marked()
    section.tell(files=len(files))
    if not files:
        raise KDCompressError("There are no tests here.", where=ROOT / "tests", hint="run it in a checkout")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rA", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(section.left - 3, 1))
    except subprocess.TimeoutExpired as error:
        raise KDCompressError("The tests took longer than the section has.", got=f"{error.timeout:.0f} s") from error
    lines = done.stdout.strip().splitlines()
    told = [line for line in lines if re.match(r"(PASSED|FAILED|ERROR|SKIPPED)\b", line)]
    section.tell(counts=counts(lines[-1] if lines else ""), said=lines[-1:], exit_code=done.returncode)
    for line in told:
        section.add(test=line)
    if done.returncode not in (0, 5):  # 5: none was there to be run
        failed = [line for line in told if line.startswith(("FAILED", "ERROR"))]
        raise KDCompressError("Some tests did not pass.", got="; ".join(failed) or done.stderr[-500:] or lines[-1:])


def marked() -> list[str]:
    """Files with tests that need a GPU: the others are not even imported."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in tests if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def counts(line: str) -> dict[str, int]:
    """Of pytest's last line: "3 passed, 1 skipped in 2.05s"."""
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", line) if name in COUNTED}
