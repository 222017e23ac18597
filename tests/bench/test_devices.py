import subprocess
import sys

import pytest
from test_timing import IMAGES, SPEC, Busy

from kdcompress.artifact import Artifact
from kdcompress.bench import devices as devices_module
from kdcompress.bench import timing
from kdcompress.bench.devices import Request, Session, add_memory, devices, only, parse_device
from kdcompress.bench.record import Record
from kdcompress.errors import UsageError


def request(**changes):
    artifacts = {label: Artifact(label, "onnx", "fp32", SPEC, "", 0) for label in ("a", "b")}
    given = {"artifacts": artifacts, "images": IMAGES, "open": lambda artifact, threads: Busy(0.1), "effort": "rapid"}
    return Request(**{**given, **changes})


def quiet(share, what):
    return None


def test_local_measures_what_is_asked(monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.1))
    opened = []

    def opener(artifact, threads):
        opened.append((artifact.path, threads))
        return Busy(0.1)

    session = devices["local"](request(open=opener, threads=2, baseline="a"), "", quiet)
    assert list(session.records) == ["a", "b"] and session.records["b"].ratio["n"] >= 64
    assert opened == [("a", 2), ("b", 2)] and session.device == "local" and not session.interrupted
    assert session.before["cpu"] and session.after["cpu"]


def test_an_interrupted_local_session_has_its_records(monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.1))

    class Stops(Busy):
        def infer(self, x):
            if self.collecting.count(False) == 40:
                raise KeyboardInterrupt
            return super().infer(x)

    session = devices["local"](request(open=lambda artifact, threads: Stops(0.1)), "", quiet)
    assert session.interrupted and session.records["a"].n >= 19


def test_memory_is_looked_at_once_for_each_artefact_that_ran(monkeypatch):
    asked = []

    def memory(artifact, images, open, threads, size):
        asked.append((artifact.path, threads, size))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return 10.0, 50.0

    monkeypatch.setattr(devices_module.cold, "memory", memory)
    records = {label: Record(label, "rapid", 8, load_rss_mib=0.0, peak_rss_mib=99.0) for label in ("a", "b")}
    session = Session("local", records, {}, {})
    records["b"].failed = "query 2: no"
    add_memory(session, request(threads=2))
    assert asked == [("a", 2, 8)] and (records["a"].load_rss_mib, records["a"].peak_rss_mib) == (10.0, 50.0)
    assert records["b"].load_rss_mib is None and not session.interrupted
    add_memory(session, request(scenario="cold-start"))
    assert len(asked) == 1 and records["a"].load_rss_mib == 10.0
    records["b"].failed = None
    add_memory(session, request())  # Ctrl-C comes with the second
    assert session.interrupted and records["a"].load_rss_mib == 10.0 and records["b"].load_rss_mib is None


def test_names_and_addresses():
    assert parse_device("local") == (devices["local"], "")
    assert parse_device("local:user@host")[1] == "user@host"
    with pytest.raises(UsageError, match="did you mean 'local'"):
        parse_device("locl")
    with pytest.raises(UsageError, match="takes no address"):
        devices["local"](request(), "x", quiet)


def test_what_a_device_does_not_do_is_refused():
    only(request(), "phone", formats=("onnx",), scenarios=("single-stream",))
    with pytest.raises(UsageError, match="does not run this format"):
        only(request(), "phone", formats=("ort",))
    with pytest.raises(UsageError, match="does not measure this scenario"):
        only(request(scenario="offline"), "phone", scenarios=("single-stream",))


def test_devices_are_found_when_they_are_asked_for():
    code = "import sys; from kdcompress.bench.devices import devices; print('kdcompress.bench.browser' in sys.modules)"
    code += "; print(*devices.entries()); print('kdcompress.bench.browser' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["False", "adb browser emulated-arm64 local ssh", "True"]
