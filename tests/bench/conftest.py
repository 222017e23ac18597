"""What tests of remote devices share: small artefacts, and Pythons and servers as a device has them."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.bench import timing
from kdcompress.bench.devices import Request
from kdcompress.bench.remote import conversation
from kdcompress.bench.remote.sent import write_agent
from kdcompress.export.formats import cpus_of, open_runner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPEC = InputSpec(16, 16, 3, (0.5,) * 3, (0.5,) * 3, ("a", "b", "c"))
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8)


def linear(path, seed, target=None, padding=0):
    """An ONNX file with one product of matrices, and unused weights of so many bytes."""
    onnx = pytest.importorskip("onnx")
    kind, rng = onnx.TensorProto, np.random.default_rng(seed)
    constants = {"weight": rng.normal(size=(768, 3)).astype(np.float32), "padding": rng.bytes(padding)}
    constants["padding"] = np.frombuffer(constants["padding"], np.uint8)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["image"], ["float"], to=kind.FLOAT),
            onnx.helper.make_node("Flatten", ["float"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("image", kind.UINT8, ["N", 16, 16, 3])],
        [onnx.helper.make_tensor_value_info("logits", kind.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if value.size],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return Artifact.of(path, "onnx", "fp32", SPEC, target=target)


@pytest.fixture(scope="session")
def benchmark_script():
    """A function that imports benchmarks/NAME.py."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        made = importlib.util.module_from_spec(spec)
        if str(BENCHMARKS) not in sys.path:  # as where it is run
            sys.path.append(str(BENCHMARKS))
        spec.loader.exec_module(made)
        return made

    return load


@pytest.fixture(scope="session")
def request_of(tmp_path_factory):
    """A function that makes a Request of so many artefacts, with other fields as given."""
    folder = tmp_path_factory.mktemp("artefacts")

    def make(count=1, target=None, padding=0, **rest):
        names = [f"model {i}" for i in range(count)]
        made = {n: linear(folder / f"{n}-{target}-{padding}.onnx", i, target, padding) for i, n in enumerate(names)}
        return Request(made, IMAGES, open_runner, effort="rapid", cpus=cpus_of, **rest)

    return make


@pytest.fixture(scope="session")
def device_python(tmp_path_factory):
    """A function that makes a Python with nothing but these packages of the running one."""

    def make(name, *packages):
        folder = tmp_path_factory.mktemp("pythons") / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
        (site,) = folder.glob("lib/python3*/site-packages")
        for package in packages:
            home = next(Path(p) for p in sys.path if Path(p, package).exists())  # others are vendored copies
            for found in (home / package, *home.glob(f"{package}-*.dist-info")):
                (site / found.name).symlink_to(found)
        return folder / "bin" / "python3"

    return make


@pytest.fixture(scope="session")
def python(device_python):
    """One with ONNX Runtime."""
    return device_python("device", "numpy", "numpy.libs", "onnxruntime", "flatbuffers", "google", "packaging")


@pytest.fixture
def brief(monkeypatch):
    """A function: a device measures each file for so many seconds. The agent that is sent to it says so."""

    def lasting(seconds, most=timing.MOST):
        def write(file, opener):
            write_agent(file, opener)
            with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # there are two of that name: the last one is imported
                source = archive.read("kdcompress/bench/timing.py").decode()
                changed = f"{source}\nEFFORTS['rapid'], MOST = (64, {seconds}), {most}\n"
                archive.writestr("kdcompress/bench/timing.py", changed)

        monkeypatch.setattr(conversation, "write_agent", write)

    return lasting


@pytest.fixture
def endless(brief):
    """A device measures until it is stopped: on a fast machine these files soon have enough queries."""
    brief(3600, most=10**12)


@pytest.fixture
def there(tmp_path):
    """The folder for temporary files on a device."""
    folder = tmp_path / "device's folder"
    folder.mkdir()
    return folder


def end(*sockets):
    for each in sockets:
        with suppress(OSError):  # it has ended
            each.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Between a client and a port of this machine: what can happen to a connection, can be made to happen."""

    def __init__(self, port):
        self.to, self.refusing, self.pairs = port, False, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.to))
            self.pairs.append((client, server))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        end(one, other)

    def cut(self):
        """Every connection drops."""
        for pair in self.pairs:
            end(*pair)
        self.pairs.clear()

    def close(self):
        self.cut()
        self.listener.close()


class Sshd:
    """A real sshd on a free port of the loopback, with keys of its own."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("host", "user", "stranger"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
            subprocess.run(command, check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPasswordAuthentication no\nUseDNS no\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        with (folder / "sshd.log").open("w") as log:
            command = [program, "-D", "-e", "-f", folder / "sshd_config"]
            self.process = subprocess.Popen(command, stderr=log, env=environment)
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, (folder / "sshd.log").read_text()
                time.sleep(0.05)
        self.client(self.port)

    def client(self, *ports, key="user", host_key="host"):
        """The user's configuration of ssh, which the ssh on PATH reads, knows the host at these ports."""
        public = (self.folder / f"{host_key}.pub").read_text()
        known = "".join(f"[127.0.0.1]:{port} {public}" for port in ports)
        (self.folder / "known_hosts").write_text(known)
        (self.folder / "config").write_text(
            f"UserKnownHostsFile {self.folder}/known_hosts\nGlobalKnownHostsFile none\nIdentitiesOnly yes\n"
            f"IdentityFile {self.folder}/{key}\n"
        )
        wrapper = self.folder / "bin" / "ssh"
        wrapper.parent.mkdir(exist_ok=True)
        system = next(p for p in os.environ["PATH"].split(":") if p != str(wrapper.parent) and Path(p, "ssh").exists())
        wrapper.write_text(f'#!/bin/sh\nexec {system}/ssh -F {self.folder}/config "$@"\n')
        wrapper.chmod(0o755)
        return str(wrapper.parent)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@pytest.fixture(scope="session")
def sshd_session(tmp_path_factory):
    if not shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") or not shutil.which("ssh-keygen"):
        pytest.skip("there is no sshd (Debian: openssh-server)")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture
def sshd(sshd_session, monkeypatch):
    monkeypatch.setenv("PATH", sshd_session.client(sshd_session.port) + os.pathsep + os.environ["PATH"])
    return sshd_session


@pytest.fixture
def proxy(sshd):
    made = Proxy(sshd.port)
    sshd.client(made.port)
    yield made
    made.close()
