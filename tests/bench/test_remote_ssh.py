"""The device ssh, over a real sshd: what it measures, and what becomes of a job when something goes wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.bench.devices import Request, parse_device
from kdcompress.bench.remote import commands, conversation
from kdcompress.bench.remote.sent import COMPARED
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export.formats import open_runner
from kdcompress.tasks import tasks

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, or makes a network namespace")


def processes(folder):
    """Those that were started with something of this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words and entry.parent.name != str(os.getpid()):
            found.append(words)
    return found


def nothing_left(folder, within=0.0):
    """Whether no file and no process is there, or is none within so many seconds."""
    deadline = time.monotonic() + within
    while list(folder.iterdir()) or processes(folder):
        if time.monotonic() > deadline:
            print(list(folder.iterdir()), processes(folder))
            return False
        time.sleep(0.2)
    return True


class Told(list):
    """A Progress that keeps what it is told, and does something once that starts with some words."""

    def __init__(self, words=None, act=None):
        self.words, self.act = words, act

    def __call__(self, share, what):
        self.append((share, what))
        if self.words and what.startswith(self.words):
            self.words = None
            self.act()

    def __contains__(self, words):
        return any(words in what for _, what in self)


def run(port, request, told=None, **options):
    query = "&".join(f"{key}={value}" for key, value in options.items())
    bench, address = parse_device(f"ssh:127.0.0.1:{port}?{query}")
    return bench(request, address, told if told is not None else Told())


def test_it_measures_there_and_leaves_nothing_behind(sshd, request_of, python, brief, there):
    brief(0.4)
    told = Told()
    session = run(sshd.port, request_of(2, baseline="model 0"), told, python=python, folder=there)
    assert nothing_left(there)
    assert session.device == f"ssh:127.0.0.1:{sshd.port}" and not session.interrupted and session.notes == []
    first, second = session.records.values()
    assert first.n == second.n == len(first.samples_ms) >= 64 and first.failed is None
    assert first.median_ms > 0 and first.load_ms > 0
    assert all(each.peak_rss_mib > 10 and each.load_rss_mib > 1 for each in (first, second))
    assert first.runtime["runtime"] == "onnxruntime-cpu" and second.ratio["n"] == second.n
    assert session.before["memory_gib"] > 0 and session.before["threads"] == os.cpu_count()
    assert {"numpy", "onnxruntime"} <= set(session.before["packages"]) and "torch" not in session.before["packages"]
    assert session.parity["model 0"]["passed"] and session.parity["model 1"]["n"] == COMPARED
    assert session.parity["model 0"]["max_abs"] < 1e-2
    assert "sending" in told and "measuring" in told and told[-1][0] == 1
    json.dumps([record.to_json() for record in session.records.values()])


def detector(path):
    """An ONNX file with boxes and scores of four places, the scores first."""
    rng, labels = np.random.default_rng(0), ("a", "b", "c")
    weight = numpy_helper.from_array(rng.normal(size=(768, 28)).astype(np.float32) / 768, "weight")
    shapes = {"boxes": [0, 4, 4], "scores": [0, 4, 3]}
    constants = [numpy_helper.from_array(np.array(shape), f"{name} shape") for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["all"]),
        helper.make_node("Split", ["all", "sizes"], ["flat boxes", "logits"], axis=1),
        helper.make_node("Reshape", ["flat boxes", "boxes shape"], ["boxes"]),
        helper.make_node("Reshape", ["logits", "scores shape"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["scores"]),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shapes[name][1:]]) for name in ("scores", "boxes")
    ]
    sizes = numpy_helper.from_array(np.array([16, 12]), "sizes")
    graph = helper.make_graph(nodes, "detector", [given], made, [weight, sizes, *constants])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    outputs = tasks["detection"].outputs(labels, [tuple(shape[1:]) for shape in shapes.values()])
    spec = InputSpec(16, 16, 3, (0.5,) * 3, (0.5,) * 3, labels, task="detection", outputs=outputs)
    return Artifact.of(path, "onnx", "fp32", spec)


def test_a_detector_is_measured_there(sshd, python, brief, there, tmp_path):
    brief(0.2)
    images = np.random.default_rng(0).integers(0, 256, (COMPARED, 16, 16, 3), np.uint8)
    request = Request({"detector": detector(tmp_path / "detector.onnx")}, images, open_runner, effort="rapid")
    session = run(sshd.port, request, python=python, folder=there)
    assert session.records["detector"].failed is None and session.records["detector"].n >= 64 and session.notes == []
    assert session.parity["detector"]["passed"] and session.parity["detector"]["n"] == COMPARED
    assert nothing_left(there)


def test_a_scenario_of_processes(sshd, request_of, python, there):
    session = run(sshd.port, request_of(scenario="cold-start"), python=python, folder=there)
    record = session.records["model 0"]
    assert record.failed is None and record.n == 11 and record.process_ms > record.median_ms > 1
    assert nothing_left(there)


def test_a_dropped_connection_is_made_again(proxy, request_of, python, brief, there):
    brief(2)

    def drop():
        proxy.refusing = True
        proxy.cut()
        threading.Timer(1.5, setattr, (proxy, "refusing", False)).start()

    told = Told("measuring", drop)
    session = run(proxy.port, request_of(), told, python=python, folder=there)
    assert "trying again" in told
    assert session.records["model 0"].n >= 64 and session.records["model 0"].failed is None
    assert session.parity["model 0"]["passed"]
    assert nothing_left(there)


def test_a_device_that_vanishes_is_given_up_on_both_sides(proxy, request_of, python, there):
    def vanish():
        proxy.refusing = True
        proxy.cut()

    with pytest.raises(KDCompressError, match="connection to the device is lost") as caught:
        run(proxy.port, request_of(), Told("measuring", vanish), python=python, folder=there, away=4)
    assert "ends by itself after 4 s" in str(caught.value)
    assert nothing_left(there, within=120)


def test_a_connection_that_drops_while_the_job_is_sent(proxy, request_of, python, brief, there):
    """The job is sent over a new one; where there is none, the agent that waits for it goes."""
    brief(0.5)
    assert run(proxy.port, request_of(), Told("sending", proxy.cut), python=python, folder=there).records["model 0"].n
    assert nothing_left(there)

    def vanish():
        proxy.refusing = True
        proxy.cut()

    with pytest.raises(RuntimeMissingError, match="cannot be reached"):
        run(proxy.port, request_of(), Told("sending", vanish), python=python, folder=there, away=4)
    assert nothing_left(there, within=120)


def ctrl_c():
    """What the signal does. Itself it would end a worker of pytest-xdist."""
    raise KeyboardInterrupt


def test_ctrl_c_brings_back_what_was_measured(sshd, request_of, python, there):
    told = Told("measuring", ctrl_c)
    session = run(sshd.port, request_of(2), told, python=python, folder=there)
    assert session.interrupted and "interrupted" in told
    record = session.records["model 0"]
    assert record.n > 0 and record.wall_s < 12 and "interrupted" in record.capped
    assert nothing_left(there)


def test_ctrl_c_before_anything_is_measured(sshd, request_of, python, there):
    told = Told("sending", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(sshd.port, request_of(), told, python=python, folder=there)
    assert nothing_left(there)


def test_a_killed_host_leaves_nothing_running_on_either_side(sshd, request_of, python, there, tmp_path):
    script = tmp_path / "host.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
        "from conftest import IMAGES, linear\n"
        "from pathlib import Path\n"
        "from kdcompress.bench.devices import Request, parse_device\n"
        "from kdcompress.export.formats import open_runner\n"
        f"made = linear(Path({str(tmp_path)!r}, 'model.onnx'), 0)\n"
        f"bench, address = parse_device('ssh:127.0.0.1:{sshd.port}?away=4&python={python}&folder=' + sys.argv[1])\n"
        "request = Request({'model': made}, IMAGES, open_runner, effort='rapid')\n"
        "bench(request, address, lambda share, what: print(what, flush=True))\n"
    )
    # Its own temporary folder, so that its ssh can be told from that of other tests by the socket.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    host = subprocess.Popen([sys.executable, script, there], stdout=subprocess.PIPE, text=True, env=environment)
    assert any(line.startswith("measuring") for line in host.stdout)
    assert any("ssh" in words and "kdc-" in words for words in processes(tmp_path))
    host.kill()
    host.wait()
    assert nothing_left(there, within=120)
    assert not processes(tmp_path)


def test_what_is_ended_on_the_device_is_said(sshd, request_of, python, endless, there):
    def end(command):
        (pid,) = [
            int(entry.parent.name)
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if f"agent.pyz\0{command}\0{there}" in entry.read_bytes().decode(errors="replace")
        ]
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(KDCompressError, match="its process ended with signal 9"):
        run(sshd.port, request_of(), Told("measuring", lambda: end("measure")), python=python, folder=there)
    assert nothing_left(there)
    with pytest.raises(KDCompressError, match="ended without a result"):
        run(sshd.port, request_of(), Told("measuring", lambda: end("supervise")), python=python, folder=there)
    assert nothing_left(there)


def test_a_device_that_has_forgotten_all_is_not_waited_for(proxy, request_of, python, endless, there):
    def restart():
        for folder in there.iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        proxy.cut()

    with pytest.raises(KDCompressError, match="folder has been removed there"):
        run(proxy.port, request_of(), Told("measuring", restart), python=python, folder=there)
    assert nothing_left(there, within=120)


def test_a_measurement_has_a_limit_of_its_own(sshd, request_of, python, there):
    with pytest.raises(KDCompressError, match="longer than 2 s there"):
        run(sshd.port, request_of(8), python=python, folder=there, limit=2)
    assert nothing_left(there)


@pytest.mark.parametrize(
    "address, said",
    [
        ("ssh:", "address of the device is missing"),
        ("ssh:-oProxyCommand=true", "address of the device is not the name of a host"),
        ("ssh:host?pyton=python3", "no such option"),
        ("ssh:host?away=soon", "number of seconds"),
        ("ssh:host?limit=-1", "number of seconds"),
    ],
)
def test_addresses_that_are_none(request_of, address, said):
    bench, rest = parse_device(address)
    with pytest.raises(UsageError, match=said):
        bench(request_of(), rest, Told())


def test_hosts_that_cannot_be_reached(sshd, request_of, there):
    with pytest.raises(RuntimeMissingError, match="Could not resolve hostname"):
        parse_device("ssh:nobody@no-such-host.invalid")[0](request_of(), "nobody@no-such-host.invalid", Told())
    with pytest.raises(RuntimeMissingError, match="Connection refused"):
        run(1, request_of())
    sshd.client(sshd.port, host_key="stranger")
    with pytest.raises(RuntimeMissingError, match="Host key .* has changed"):
        run(sshd.port, request_of())
    sshd.client()
    with pytest.raises(RuntimeMissingError, match="to accept its key"):
        run(sshd.port, request_of())
    sshd.client(sshd.port, key="stranger")
    with pytest.raises(RuntimeMissingError, match="ssh-copy-id"):
        run(sshd.port, request_of())


def test_devices_without_what_is_needed(sshd, request_of, device_python, there):
    with pytest.raises(RuntimeMissingError, match="no /nowhere/python3"):
        run(sshd.port, request_of(), python="/nowhere/python3", folder=there)
    old = there.parent / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.10\nexit $([ "$1" = -V ]; echo $?)\n')
    old.chmod(0o755)
    with pytest.raises(RuntimeMissingError, match="Python 3.8.10"):
        run(sshd.port, request_of(), python=old, folder=there)
    bare = device_python("bare")
    with pytest.raises(RuntimeMissingError, match="No module named 'numpy'") as caught:
        run(sshd.port, request_of(), python=bare, folder=there)
    assert f"{bare} -m pip install numpy onnxruntime" in str(caught.value)
    numpy = device_python("numpy", "numpy", "numpy.libs")
    with pytest.raises(RuntimeMissingError, match="needs the package 'onnxruntime'"):
        run(sshd.port, request_of(), python=numpy, folder=there)
    with pytest.raises(KDCompressError, match="No such file or directory"):
        run(sshd.port, request_of(), python=numpy, folder=there / "nowhere")
    assert nothing_left(there)


def test_an_artefact_for_another_processor(sshd, request_of, python, brief, there):
    brief(0.5)
    told = Told()
    with pytest.raises(UsageError, match="made for arm64, target arm64-dotprod"):
        run(sshd.port, request_of(target="arm64-dotprod"), told, python=python, folder=there)
    assert "sending" not in told
    request = request_of(baseline="model 0")
    request.artifacts["for arm"] = request_of(target="raspberry-pi-5").artifacts["model 0"]
    session = run(sshd.port, replace(request, optional=["model 0", "for arm"]), python=python, folder=there)
    assert list(session.records) == ["model 0"]
    assert session.notes[0].startswith("for arm was not measured") and "made for arm64" in session.notes[0]
    assert nothing_left(there)


def test_an_artefact_that_fails_there_is_a_record(sshd, request_of, python, brief, there, tmp_path):
    brief(0.5)
    request = request_of(2)
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model at all")
    whole, broken = request.artifacts.values()
    request = replace(request, artifacts={"whole": whole, "broken": Artifact.of(path, "onnx", "fp32", broken.input)})
    session = run(sshd.port, request, python=python, folder=there)
    assert session.records["whole"].n >= 64 and session.parity["whole"]["passed"]
    assert "cannot load" in session.records["broken"].failed and "broken" not in session.parity
    assert any("broken gives no outputs" in note for note in session.notes)
    assert nothing_left(there)


@root
def test_a_full_disk(sshd, request_of, python, brief, there):
    brief(2)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", there], check=True)

    def fill():
        with (there / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError:
                    break

    def empty():
        (there / "filler").unlink()

    try:
        with pytest.raises(KDCompressError, match="disk is full") as caught:
            run(sshd.port, request_of(padding=9 * 2**20), python=python, folder=there)
        assert "MiB free" in str(caught.value)
        assert nothing_left(there)
        with pytest.raises(KDCompressError, match="No space left on device"):
            run(sshd.port, request_of(padding=2**20), Told("sending", fill), python=python, folder=there)
        empty()
        assert nothing_left(there)
        fill()
        with pytest.raises(KDCompressError, match="No space left on device"):
            run(sshd.port, request_of(padding=2**20), python=python, folder=there)
        empty()
        assert nothing_left(there)
        # What is measured already comes back: there is room once the artefacts are removed.
        session = run(sshd.port, request_of(padding=2**22), Told("measuring", fill), python=python, folder=there)
        assert session.records["model 0"].n >= 64
        empty()
        assert nothing_left(there)
    finally:
        subprocess.run(["umount", "-l", there], check=True)


@root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ip"), reason="there is no ip (Debian: iproute2)")
def test_a_network_that_goes_away_without_a_word(sshd, request_of, python, there, monkeypatch):
    """The host and the device in network namespaces of their own: packets are lost, no connection is closed."""
    for module in (commands, conversation):
        monkeypatch.setattr(module, "SILENCE_S", 4.0)
    name = f"kdc{os.getpid() % 10000}"
    forward = None

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", "10.231.7.1/24", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", "10.231.7.2/24", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "link", "set", "lo", "up")
        config = (sshd.folder / "sshd_config").read_text().replace("127.0.0.1", "10.231.7.2")
        (sshd.folder / "netns_config").write_text(config)
        program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        forward = subprocess.Popen(
            ["ip", "netns", "exec", name, program, "-D", "-e", "-f", sshd.folder / "netns_config"],
            stderr=subprocess.DEVNULL,
        )
        known = sshd.folder / "known_hosts"
        known.write_text(known.read_text().replace("127.0.0.1", "10.231.7.2"))
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("10.231.7.2", sshd.port)).close()
                break
            except OSError:
                assert forward.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)

        def vanish():
            ip("link", "set", f"{name}a", "down")
            threading.Timer(8, ip, ("link", "set", f"{name}a", "up")).start()

        told = Told("measuring", vanish)
        bench, address = parse_device(f"ssh:10.231.7.2:{sshd.port}?python={python}&folder={there}")
        session = bench(request_of(), address, told)
        assert "trying again" in told and session.records["model 0"].n >= 64
        assert nothing_left(there)
    finally:
        if forward:
            forward.terminate()
            forward.wait()
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
