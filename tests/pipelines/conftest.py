"""What may ship does not depend on the processor that the tests run on."""

import os
import subprocess
import sys

import pytest
from quick_runs import untried

BLOCKED = """
import importlib.abc, os, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["BLOCKED"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module", autouse=True)
def steady(by_size):
    """Latencies are handed in; tests/bench measures."""


@pytest.fixture(scope="module", autouse=True)
def quick(request):
    """But for modules that say ``TRIED``."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "TRIED", False):
            untried(patch)
        yield


@pytest.fixture
def bare(tmp_path):
    """A function that runs a program in a process without the modules named."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKED)

    def start(program, *blocked):
        variables = {"PYTHONPATH": str(tmp_path / "site"), "BLOCKED": ",".join(blocked), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-B", str(program)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=900
        )

    return start
