import pytest

from kdcompress.bench import energy


class Clock:
    """Time passes where somebody sleeps, or where a query is made."""

    seconds = 0.0

    def sleep(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(energy, "perf_counter", lambda: made.seconds)
    monkeypatch.setattr(energy, "sleep", made.sleep)
    return made


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine that exposes nothing; RAPL's place is ``tmp_path``."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(energy, "nvml", lambda function, result: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def domain(root, name, number, microjoules, most=1_000_000):
    folder = root / "powercap" / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_nothing_exposed_is_said_so(nothing):
    assert energy.measured(lambda x: None, [0], 0.01) == {
        "source": "not exposed", "why": "no RAPL, no tegrastats, no NVML"
    }  # fmt: skip


def test_rapl_counts_packages_and_wraps_around(nothing, clock):
    package = domain(nothing, "package-0", "0", 999_000)
    domain(nothing, "core", "0:0", 5)
    counter = package / "energy_uj"

    def ask(x):  # 2 mJ a query
        counter.write_text(str((int(counter.read_text()) + 2000) % 1_000_001))
        clock.sleep(0.001)

    found = energy.measured(ask, [0, 1], 0.05)
    assert found["source"] == "package-0 (RAPL)"
    assert found["joules_per_query"] == {"package-0 (RAPL)": pytest.approx(0.002)}
    assert found["idle_watts"] == {"package-0 (RAPL)": 0} and found["queries"] in (50, 51)
    assert found["watts"]["package-0 (RAPL)"] == pytest.approx(2, rel=0.01)


def test_rapl_that_only_root_reads(nothing, monkeypatch):
    domain(nothing, "package-0", "0", 1)
    read = energy.Path.read_text

    def refused(path, *rest):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *rest)

    monkeypatch.setattr(energy.Path, "read_text", refused)
    found = energy.measured(lambda x: None, [0], 0.01)
    assert found["source"] == "not exposed" and "Permission denied" in found["why"]


LINE = "RAM 2448/7765MB (lfb 4x4MB) CPU [2%@1190] GPU@34C VDD_IN 4988mW/4988mW VDD_CPU_GPU_CV 1023mW/1023mW"


@pytest.mark.parametrize("line, watts", [(LINE, 4.988), ("RAM 1/2MB POM_5V_IN 2000/1900 POM_5V_GPU 0/0", 2.0)])
def test_tegrastats_is_summed_over_time_and_ended(nothing, line, watts, clock):
    program = nothing / "tegrastats"
    program.write_text(f"#!/bin/bash\necho $$ > {nothing}/pid\nwhile true; do echo '{line}'; /bin/sleep 0.02; done\n")
    program.chmod(0o755)
    found = energy.measured(lambda x: clock.sleep(0.01), [0], 0.2)
    assert found["watts"]["board (tegrastats)"] == pytest.approx(watts, rel=0.01)
    assert found["joules_per_query"]["board (tegrastats)"] == pytest.approx(watts * 0.01, rel=0.01)
    pid = (nothing / "pid").read_text().strip()
    assert not energy.Path(f"/proc/{pid}").exists()


@pytest.mark.gpu
def test_nvml_counts_joules_and_memory():
    import torch

    from kdcompress.bench.machine import device_memory_mib

    before = device_memory_mib()
    held = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    assert device_memory_mib() >= before + 200
    found = energy.measured(lambda x: (held.add_(1), torch.cuda.synchronize()), [0], 0.5)
    assert found["watts"]["GPU (NVML)"] > 5
