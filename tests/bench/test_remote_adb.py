"""The device adb: Android's own adbd, as Debian builds it for Linux, in a network namespace of its own, since it lets
anyone in who reaches it. Without it, what the adb of this machine says."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kdcompress.bench.devices import parse_device
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError

SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"
needs_adb = pytest.mark.skipif(not shutil.which("adb"), reason="there is no adb (Debian: adb)")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An adb server of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", "15137")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # its keys
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("adb")))  # its log
        yield
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)


def test_without_adb(request_of, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeMissingError, match="no adb on this machine"):
        parse_device("adb")[0](request_of(), "", print)


@needs_adb
def test_a_real_server_without_that_device(server, request_of):
    bench, address = parse_device("adb:no-such-serial")
    with pytest.raises(RuntimeMissingError, match="adb has no device no-such-serial"):
        bench(request_of(), address, print)
    with pytest.raises(RuntimeMissingError, match="adb has no device that is ready"):
        bench(request_of(), "", print)
    with pytest.raises(UsageError, match="no such option"):
        bench(request_of(), "serial?phyton=python", print)


@pytest.fixture(scope="module")
def adbd(request):
    """The command that runs it: the system's, or that of Debian 13 in a folder, run by its own loader."""
    if found := shutil.which("adbd", path=os.environ["PATH"] + ":/usr/sbin"):
        return [found]
    if not shutil.which("apt-get"):
        pytest.skip("there is neither adbd nor an apt to get it by")
    kept = Path(request.config.cache.mkdir("adbd"))
    root, library = kept / "root", kept / "root/usr/lib/x86_64-linux-gnu"
    if not (kept / "whole").exists():
        for part in ("lists/partial", "cache/archives/partial"):
            (kept / part).mkdir(parents=True, exist_ok=True)
        (kept / "status").touch()
        (kept / "sources.list").write_text(SOURCE)
        settings = {
            "Dir::Etc::sourcelist": kept / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": kept / "lists",
            "Dir::State::status": kept / "status",
            "Dir::Cache": kept / "cache",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "1",
        }
        apt = ["apt-get", "-q", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
        wanted = ["install", "--download-only", "--yes", "--no-install-recommends", "adbd"]
        for command in ([*apt, "update"], [*apt, *wanted]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"adbd cannot be had here: {done.stderr.strip()[-200:]}")
        for package in (kept / "cache/archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
        (kept / "whole").touch()
    program = root / "usr/lib/android-sdk/platform-tools/adbd"
    return [library / "ld-linux-x86-64.so.2", "--library-path", f"{library}:{library}/android", program]


@pytest.fixture
def device(server, adbd, tmp_path, monkeypatch):
    """adbd in a namespace, and the adb of that namespace on PATH; its process."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("a network namespace needs root and ip (Debian: iproute2)")
    name = f"kda{os.getpid() % 10000}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    within = ["ip", "netns", "exec", name]
    system = shutil.which("adb")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/adb").write_text(f'#!/bin/sh\nexec {" ".join(within)} {system} "$@"\n')
    (tmp_path / "bin/adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    started = []

    def start():
        with (tmp_path / "adbd.log").open("w") as log:
            started.append(subprocess.Popen([*within, *adbd], stdout=log, stderr=log, cwd="/"))
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(["adb", "connect", "127.0.0.1:5555"], capture_output=True, text=True)
            if "connected to" in done.stdout:
                break
            assert time.monotonic() < deadline, done.stdout + (tmp_path / "adbd.log").read_text()
            time.sleep(0.5)
        subprocess.run(["adb", "-s", "127.0.0.1:5555", "wait-for-device"], check=True, timeout=120)

    def end():
        started[-1].send_signal(signal.SIGKILL)
        started[-1].wait()

    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        start()
        yield start, end
    finally:
        if started[-1].poll() is None:
            end()
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@needs_adb
def test_it_measures_over_a_real_adbd(device, request_of, python, there):
    start, end = device

    def run(told=lambda share, what: None, python=python, **options):
        query = "&".join(f"{k}={v}" for k, v in {"python": python, "folder": there, **options}.items())
        bench, address = parse_device(f"adb:127.0.0.1:5555?{query}")
        return bench(request_of(padding=3_000_000), address, told)

    session = run()
    assert session.device == "adb:127.0.0.1:5555" and session.notes == []
    assert session.records["model 0"].n >= 64 and session.parity["model 0"]["passed"]
    assert not list(there.iterdir())

    with pytest.raises(RuntimeMissingError, match="no /nowhere/python3"):
        run(python="/nowhere/python3")

    told = []

    def interrupt(share, what):
        if what.startswith("measuring") and "x" not in told:
            told.append("x")
            raise KeyboardInterrupt  # as the signal does, which would end a worker of pytest-xdist

    assert run(interrupt).interrupted
    assert not list(there.iterdir())

    def restart(share, what):
        told.append(what)
        if what.startswith("measuring") and "restarted" not in told:
            told.append("restarted")
            end()
            start()

    assert run(restart).records["model 0"].n >= 64
    assert any("trying again" in what for what in told)
    assert not list(there.iterdir())

    def vanish(share, what):
        if what.startswith("measuring"):
            end()

    with pytest.raises(KDCompressError, match="connection to the device is lost"):
        run(vanish, away=4)
    deadline = time.monotonic() + 120
    while list(there.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not list(there.iterdir())
