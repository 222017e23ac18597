"""The newest versions that setup.py allows, in an environment of their own, are held to the records."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 3600
NO_INDEX = ("connection broken by", "ConnectionError", "Temporary failure in name resolution")


def lines_of(command: list[str], show, **options) -> tuple[int, str]:
    """The exit code and what was said; each line is shown as it comes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **pipes, **options) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            show(line.rstrip())
    return process.returncode, "".join(said)


@pytest.mark.slow
def test_the_newest_versions_are_as_recorded(tmp_path, capsys):
    """Nothing is pinned but by setup.py, and by what pip itself is told on this machine."""

    def show(line: str) -> None:
        with capsys.disabled():
            print(f"newest: {line}", file=sys.stderr, flush=True)

    venv.create(tmp_path / "newest", with_pip=True)
    python = str(tmp_path / "newest" / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = [python, "-m", "pip", "install", "--upgrade", "--upgrade-strategy", "eager", "--progress-bar", "off"]
    code, said = lines_of([*install, "torch", "torchvision"], show)
    if code == 0:
        code, said = lines_of([*install, "--editable", f"{ROOT}[all]", "pytest"], show)
    if code and any(words in said for words in NO_INDEX):
        pytest.skip(f"the package index cannot be reached: {said.strip().splitlines()[-1][:200]}")
    assert code == 0, said[-2000:]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    tests = [python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "slow or not slow", "-rs"]
    code, said = lines_of([*tests, str(Path(__file__).with_name("test_reference.py"))], show, cwd=ROOT, env=environment)
    assert code == 0, said[-6000:]
