import json
import subprocess
import sys

import psutil
import pytest

from kdcompress.bench import machine as module
from kdcompress.bench.machine import cpu_seconds, cpu_use, machine


def test_the_record_is_whole_and_goes_into_json():
    record = json.loads(json.dumps(machine()))
    assert record["cpu"] and record["threads"] >= 1 and record["memory_gib"] > 0
    assert set(record["isa"]) <= set(module.ISA)
    assert record["packages"]["kdcompress"] and record["packages"]["numpy"]


def test_the_record_does_not_import_torch():
    code = "import sys; from kdcompress.bench.machine import machine; assert machine()['gpu'] is None;"
    code += "assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_the_system_shows_nothing(monkeypatch):
    monkeypatch.setattr(module, "_read", lambda path: None)
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    record = machine()
    assert record["governor"] == "not exposed"
    assert record["mhz"] is None and record["isa"] == [] and record["cgroup_cpus"] is None
    assert isinstance(record["cpu"], str)


def test_psutil_without_frequencies(monkeypatch):
    def refuses():
        raise NotImplementedError("no frequencies here")

    monkeypatch.setattr(psutil, "cpu_freq", refuses)
    assert machine()["mhz"] is None


@pytest.mark.parametrize(
    "cpuinfo, name, isa",
    [
        ("model name\t: Xeon\nflags\t\t: fpu avx2 avx512_vnni\n", "Xeon", ["avx2", "avx512_vnni"]),
        ("processor : 0\nFeatures : fp asimddp i8mm\n", None, ["asimddp", "i8mm"]),
    ],
)
def test_flags_of_x86_and_arm(monkeypatch, cpuinfo, name, isa):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(module, "_read", lambda path: cpuinfo if path == "/proc/cpuinfo" else None)
    model, flags = module._cpu()
    assert name in (model, None)
    assert [flag for flag in module.ISA if flag in flags] == isa


def test_macos(monkeypatch):
    text = "machdep.cpu.brand_string: Apple M3\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\n"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, text))
    assert module._cpu() == ("Apple M3", {"asimddp"})


@pytest.mark.parametrize("files, cpus", [
    ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    ({"/sys/fs/cgroup/cpu.max": "max 100000"}, None),
    ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2.0),
    ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
])  # fmt: skip
def test_cgroup_quota(monkeypatch, files, cpus):
    monkeypatch.setattr(module, "_read", files.get)
    assert module._cgroup_cpus() == cpus


def test_cpu_use_by_hand():
    before = {"total": 100.0, "steal": 1.0, "busy": 50.0, "own": 10.0}
    after = {"total": 120.0, "steal": 1.4, "busy": 60.0, "own": 17.0}
    assert cpu_use(before, after) == {"steal_percent": 2.0, "other_cpu_percent": 15.0}
    assert cpu_use(before, before) == {"steal_percent": None, "other_cpu_percent": None}
    assert cpu_seconds()["total"] > 0


def test_a_child_that_has_ended_is_no_other_process():
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(3_000_000))"], check=True)
    assert cpu_seconds()["own"] - before["own"] > 0.05
