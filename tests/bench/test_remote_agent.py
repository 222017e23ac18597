"""The agent: what it is made of, and what stands in for psutil where a device has none."""

import json
import os
import subprocess
import sys
import time
import zipfile

import psutil
import pytest

from kdcompress.bench.agent import procfs, words
from kdcompress.bench.remote.sent import write_agent
from kdcompress.export.formats import open_runner

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "agent.pyz"
    with path.open("wb") as stream:
        write_agent(stream, open_runner)
    return path


def test_it_is_small_and_of_kdcompress_alone(file):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    assert {"__main__.py", "kdcompress/bench/timing.py", "kdcompress/export/run_onnxruntime.py"} <= set(names)
    assert len(names) == len(set(names)) and all(name.startswith(("kdcompress/", "__main__")) for name in names)
    not_needed = ("/training/", "/pipelines/", "/bench/browser/", "/bench/remote/")
    assert not any(part in name for name in names for part in not_needed)
    assert file.stat().st_size < 300_000


@pytest.mark.parametrize("module", ["kdcompress.bench.agent.main", "kdcompress.export.runtimes"])
def test_it_imports_with_the_standard_library_alone(file, module):
    """-S: without site-packages; and of them all, runners import with NumPy."""
    code = f"import sys; sys.path.insert(0, {str(file)!r}); import {module}; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "False", done.stderr


def test_runners_and_the_protocol_import_with_numpy_alone(file, device_python):
    python = device_python("numpy", "numpy", "numpy.libs")
    code = (
        f"import sys; sys.path.insert(0, {str(file)!r})\n"
        "import kdcompress.bench.agent.procfs as psutil; sys.modules['psutil'] = psutil\n"
        "import kdcompress.bench.agent.job, kdcompress.bench.devices, kdcompress.bench.machine\n"
        "from kdcompress.export.runtimes import runners\n"
        "assert len(runners.entries()) > 5, runners.entries()\n"
        "kdcompress.bench.machine.machine()\n"
    )
    done = subprocess.run([python, "-E", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_lines_that_say_nothing_are_no_messages():
    assert words.heard("Welcome to this machine") is None and words.heard("") is None
    assert words.heard(words.MARK + '{"sha') is None
    assert words.heard(words.MARK + json.dumps({"share": 0.5})) == {"share": 0.5}


@linux
def test_procfs_reads_what_psutil_reads():
    assert procfs.cpu_count() == psutil.cpu_count()
    assert procfs.virtual_memory().total == psutil.virtual_memory().total
    assert abs(procfs.virtual_memory().available - psutil.virtual_memory().available) < 2**30
    assert abs(procfs.Process().memory_info().rss - psutil.Process().memory_info().rss) < 2**24
    assert procfs.Process().cpu_affinity() == psutil.Process().cpu_affinity()
    ours, theirs = procfs.cpu_times(), psutil.cpu_times()
    for name in ("user", "idle", "iowait", "steal", "guest"):
        assert abs(getattr(ours, name) - getattr(theirs, name)) < 2, name
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    ours, theirs = procfs.Process().cpu_times(), psutil.Process().cpu_times()
    for name in ours._fields:
        assert abs(getattr(ours, name) - getattr(theirs, name)) < 0.1, name
    assert procfs.getloadavg() == pytest.approx(psutil.getloadavg(), abs=1)


@linux
def test_procfs_without_proc(monkeypatch):
    monkeypatch.setattr(procfs, "_read", lambda path: None)
    assert sum(procfs.cpu_times()) == 0 and procfs.virtual_memory().total == 0
    assert procfs.cpu_freq() is None and procfs.Process().memory_info().rss == 0
    assert procfs.cpu_count() == os.cpu_count()
