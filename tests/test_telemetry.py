"""What runtimes report to their makers is off: in this process, in those started from it, in the agent for devices."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}
VARIABLES = tuple(OFF)
# ONNX Runtime looks its maker's host up some 10 s after its first session.
WATCHED_S = 14
SESSION = """
import sys, time
start = time.monotonic()
import {first}
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
session.run(None, {{session.get_inputs()[0].name: np.zeros((1, 2), np.float32)}})
time.sleep({seconds})
"""
RESOLVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    print(server.recvfrom(2048)[0][12:], flush=True)
"""
NAMESPACE = """
ip link set lo up && mount --bind "$1/resolv.conf" /etc/resolv.conf || exit 9
"$2" -c "$3" >"$1/asked" & resolver=$!
until grep -q ready "$1/asked"; do sleep 0.05; done
shift 3
"$@"; status=$?
kill $resolver
exit $status
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    onnx = pytest.importorskip("onnx")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    path = tmp_path_factory.mktemp("telemetry") / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def environment(tmp_path):
    """As a user's is, before kdcompress: the running tests have it imported."""
    kept = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}


def started(environment, code, *arguments, before=()):
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_off_unless_the_user_turned_it_on(environment):
    code = f"import os, kdcompress; print(*(os.environ[name] for name in {VARIABLES}))"
    assert started(environment, code).split() == list(OFF.values())
    for name in OFF:
        assert started(environment | {name: "mine"}, code).split() == list((OFF | {name: "mine"}).values())


def test_mlflow_takes_it_for_off():
    telemetry = pytest.importorskip("mlflow.telemetry.utils")
    assert telemetry.MLFLOW_DISABLE_TELEMETRY.get() is True


def test_nothing_is_kept_for_reports(environment, model, tmp_path):
    """ONNX Runtime 1.29 and later keep an identity of the machine in the user's cache."""
    started(environment, SESSION.format(first="kdcompress", seconds=0), model)
    assert not list((tmp_path / "cache").glob("**/*onnxruntime*"))


def test_the_agent_for_devices_has_it_off(environment, tmp_path):
    from kdcompress.bench.remote.sent import write_agent
    from kdcompress.export.formats import open_runner

    with (tmp_path / "agent.pyz").open("wb") as file:
        write_agent(file, open_runner)
    main = zipfile.ZipFile(tmp_path / "agent.pyz").read("__main__.py").decode().partition("main(")[0]
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{main}\nimport os; print(os.environ['{VARIABLES[0]}'])"
    assert started(environment, code, tmp_path / "agent.pyz").strip() == "1"


def test_huggingface_hub_knows_it(environment):
    pytest.importorskip("huggingface_hub")
    code = "import kdcompress, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY, c.HF_HUB_OFFLINE)"
    assert started(environment, code).split() == ["True", "False"]


def test_examples_in_bundles_turn_it_off_before_the_runtime_starts():
    folder = Path(__file__).parents[1] / "export" / "bundle"
    starts = {
        "infer_onnx.py": "import onnxruntime",
        "base.example.cpp.j2": "Ort::Env env(",
        "base.onnx.kt.j2": "getEnvironment(",
    }
    for name, start in starts.items():
        assert "ORT_DISABLE_TELEMETRY" in (folder / name).read_text().partition(start)[0], name
    for path in folder.rglob("*"):
        if path.name not in starts and path.suffix in (".py", ".j2"):
            assert not any(start in path.read_text() for start in starts.values()), path.name


@pytest.mark.slow
def test_no_name_is_looked_up(environment, model, tmp_path):
    """In a network of its own, whose only name server writes down what it is asked."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    script = ["unshare", "--net", "--mount", "sh", "-c", NAMESPACE, "sh", tmp_path, sys.executable, RESOLVER]
    if not all(map(shutil.which, ("unshare", "ip", "mount"))) or os.geteuid() or subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True
    ).returncode:  # fmt: skip
        pytest.skip("network namespaces need root and unshare")
    started(environment, SESSION.format(first="kdcompress", seconds=WATCHED_S), model, before=script)
    assert (tmp_path / "asked").read_text() == "ready\n"
    import onnxruntime

    if np.lib.NumpyVersion(onnxruntime.__version__) >= "1.29.0":  # the watching works
        started(environment, SESSION.format(first="time", seconds=WATCHED_S), model, before=script)
        assert "microsoft" in (tmp_path / "asked").read_text()
