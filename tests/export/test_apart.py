"""Files that crash, fill the memory or never answer do so in a process of their own."""

import os
import signal
import socket

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto as Kind
from onnx import helper

from kdcompress.cli.main import main
from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.export import apart as module
from kdcompress.export.apart import apart, tried
from kdcompress.export.foreign import any_artifact_of
from kdcompress.untrusted import existing

# What is done apart; by name, so that the other process finds it.


def crash(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def fill(path):
    return len(np.ones(1 << 36, np.uint8))


def sleep(path):
    signal.pause()


def refuse(path):
    raise RuntimeMissingError("It is not here.", where=path, got="nothing", hint="install it")


def answer(path, number):
    print("what a library prints")
    return {"name": path.name, "number": number}


@pytest.fixture(autouse=True)
def found_by_the_other(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"hello")
    return path


def test_a_file_of_the_current_folder_is_no_package(file, monkeypatch):
    """One that came with a model, say."""
    (file.parent / "numpy.py").write_text("raise SystemExit('not the package')")
    monkeypatch.chdir(file.parent)
    assert apart(answer, file, 3) == {"name": "a.onnx", "number": 3}


def test_an_answer_comes_back(file):
    assert apart(answer, file, 3) == {"name": "a.onnx", "number": 3}


@pytest.mark.parametrize(
    "work, words",
    [
        (crash, r"ended with signal 11 \(SIGSEGV\) while loading this file"),
        (fill, "takes too much memory"),
        (sleep, "gives no answer"),
    ],
)
def test_what_it_does_to_its_process_is_told(work, words, file):
    if work is fill and not os.path.exists("/proc/self/oom_score_adj"):
        pytest.skip("memory is limited on Linux")
    with pytest.raises(UsageError, match=words) as caught:
        apart(work, file, limit_s=2 if work is sleep else None)
    assert str(file) in str(caught.value)


def test_errors_are_those_raised_there(file):
    with pytest.raises(RuntimeMissingError) as caught:
        apart(refuse, file)
    assert str(caught.value) == f"It is not here.\n  where: {file}\n  got: nothing\n  next: install it"


def value(name, shape, kind=Kind.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def save(path, nodes, shape_out, initializers=()):
    made = helper.make_graph(nodes, "g", [value("x", [1, 3, 8, 8])], [value("y", shape_out)], list(initializers))
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def endless(path):
    """x, 2^62 times its sine."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Sin", ["s"], ["t"])],
        "body",
        [value("i", [], Kind.INT64), value("c", [], Kind.BOOL), value("s", [1, 3, 8, 8])],
        [value("d", [], Kind.BOOL), value("t", [1, 3, 8, 8])],
    )
    count = helper.make_tensor("n", Kind.INT64, [], [2**62])
    return save(path, [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)], [1, 3, 8, 8], [count])


def test_a_graph_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT_S", 4)
    found = CliRunner().invoke(main, ["bench", str(endless(tmp_path / "a.onnx"))])
    assert found.exit_code == 2 and "gives no answer" in found.stderr and "a.onnx" in found.stderr


@pytest.mark.parametrize("classes", [2**40, 2_000_000])
def test_a_size_that_is_only_declared(classes, tmp_path):
    path = save(tmp_path / "a.onnx", [helper.make_node("Flatten", ["x"], ["y"])], [1, classes])
    with pytest.raises(UsageError, match="larger than that of any image classifier"):
        tried(any_artifact_of, path)


def test_memory_that_a_small_file_asks_for(tmp_path):
    """2^40 values out of 8 bytes: whatever becomes of it, the process that asks goes on."""
    shape = helper.make_tensor("n", Kind.INT64, [2], [1, 2**40])
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["z"]), helper.make_node("Flatten", ["x"], ["f"])]
    nodes += [helper.make_node("ReduceSum", ["z"], ["s"]), helper.make_node("Add", ["f", "s"], ["y"])]
    path = save(tmp_path / "a.onnx", nodes, ["N", "C"], [shape])
    try:
        tried(any_artifact_of, path)
    except UsageError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("command", ["inspect", "bench"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "pipe in a folder"])
def test_special_files(kind, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("a.onnx")
    else:
        path.mkdir()
        (path / "model.xml").write_text("")
        os.mkfifo(path / "model.bin") if kind == "pipe in a folder" else (path / "model.xml").unlink()
    found = CliRunner().invoke(main, [command, str(path)])
    assert found.exit_code == 2 and str(path) in found.stderr


def test_what_exists(file, tmp_path):
    assert existing(file) == file and existing(tmp_path) == tmp_path
    with pytest.raises(UsageError, match="no such file"):
        existing(tmp_path / "none")
