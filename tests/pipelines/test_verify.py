"""A bundle is what was packed, nothing more and nothing less, and nothing in it stands in for what is installed."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.pipelines.signing import check_key, sign
from kdcompress.pipelines.verify import differences

TEMPLATES = Path(__file__).parents[2] / "export" / "bundle"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle as `kdcompress bundle` lays it out, of a model that gives its two pixels back."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("bundle") / "b"
    folder.mkdir()
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Flatten", ["float"], ["logits"]),
    ]
    given = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 1, 2, 1])
    wanted = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])
    opset = [onnx.helper.make_opsetid("", 20)]
    graph = onnx.helper.make_graph(nodes, "pixels", [given], [wanted])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "student.onnx")
    spec = {"name": "image", "dtype": "uint8", "layout": "NHWC", "range": [0, 255], "shape": [None, 1, 2, 1]}
    spec |= {"height": 1, "width": 2, "channels": 1}
    runtime = {"name": "ONNX Runtime", "version": "1", "install": "pip install onnxruntime numpy", "threads": 1}
    model = {
        "file": "student.onnx",
        "precision": "fp32",
        "input": spec,
        "labels": ["a", "b"],
        "answer": "the largest",
        "programs": ["infer", "model", "classifier"],
        "made_on": "a test",
    }
    model |= {"outputs": [{"name": "logits", "shape": [None, 2]}], "runtime": runtime}
    expected = {"logits": [3.0, 9.0], "label": "b", "tolerance": 1e-3}
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "expected.json").write_text(json.dumps(expected))
    (folder / "sample.bin").write_bytes(bytes([3, 9]))
    for name in ("infer_onnx.py", "self_check.py", "model.py", "classifier/classifier.py"):
        shutil.copyfile(TEMPLATES / name, folder / {"infer_onnx.py": "infer.py"}.get(name, Path(name).name))
    packed(folder)
    return folder


def packed(folder, names=None):
    names = names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [name for name in names if not name.startswith("SHA256SUMS")]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def bundle(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def verify(*arguments):
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def by_itself(folder, **environment):
    command = [sys.executable, str(folder / "self_check.py")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment})


def test_a_whole_one(bundle):
    found = verify(bundle)
    assert found.exit_code == 0 and "OK: student.onnx" in found.stdout, found.output
    done = by_itself(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(bundle).exit_code == 0  # neither left anything behind


@pytest.mark.parametrize("name", ["onnxruntime.py", "numpy.py", "json.py", "sitecustomize.py", "numpy/__init__.py"])
def test_a_module_that_stands_in_for_another(bundle, name, monkeypatch, tmp_path):
    """Added, or packed with the rest by whoever made it: it is not imported either way."""
    ran = tmp_path / "ran"
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text(f"open({str(ran)!r}, 'w')\n")
    found = verify(bundle)
    assert found.exit_code == 1 and f"not in the list: {name}" in found.stderr
    done = by_itself(bundle)
    assert done.returncode == 1 and f"not in the list: {name}" in done.stdout, done.stdout + done.stderr
    packed(bundle)
    monkeypatch.chdir(bundle)
    monkeypatch.setenv("PYTHONPATH", str(bundle))
    assert verify(bundle).exit_code == 0 and not ran.exists()
    assert by_itself(bundle, PYTHONPATH="").returncode == 0 and not ran.exists()


def test_a_list_that_does_not_name_every_file(bundle):
    (bundle / "SHA256SUMS").write_text("")
    found = verify(bundle)
    assert found.exit_code == 1 and "SHA256SUMS, line 1" in found.stderr and "self_check.py" in found.stderr
    packed(bundle, ["self_check.py"])
    found = verify(bundle)
    assert found.exit_code == 1 and "not in the list: student.onnx" in found.stderr
    packed(bundle)
    (bundle / "infer.py").unlink()
    assert "missing: infer.py" in verify(bundle).stderr
    packed(bundle)
    assert "SHA256SUMS does not list infer.py" in verify(bundle).stderr


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_what_is_no_plain_file(bundle, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(bundle / "infer.py", outside / "infer.py")
    (bundle / "infer.py").symlink_to(outside / "infer.py")
    (bundle / "more").symlink_to(outside)
    (bundle / "empty").mkdir()
    os.mkfifo(bundle / "pipe")
    found = verify(bundle)
    assert found.exit_code == 1
    for said in ("a link: infer.py", "more (a link)", "empty (an empty folder)", "pipe (no plain file)"):
        assert said in found.stderr
    done = by_itself(bundle)
    assert done.returncode == 1 and "missing: infer.py" in done.stdout and "not in the list: more" in done.stdout


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../self_check.py", "a\\b", "SHA256SUMS", ""])
def test_a_list_of_files_that_are_not_of_the_folder(bundle, name):
    with (bundle / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert any("SHA256SUMS, line 8" in line for line in differences(bundle))


def test_an_odd_list(bundle):
    """Damaged at random, it is a difference and never a traceback."""
    rng, text = random.Random(0), (bundle / "SHA256SUMS").read_bytes()
    for _ in range(200):
        damaged = bytearray(text)
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.choice([0, 1, 70])] = rng.choice([b"", b"\n", b"\0", b"\xff", b"/", b"  ", b"x" * 9])
        (bundle / "SHA256SUMS").write_bytes(damaged)
        assert bytes(damaged) == text or differences(bundle)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_self_check_that_does_not_end(bundle, tmp_path):
    """Nor is what it started left behind."""
    started = tmp_path / "started"
    (bundle / "self_check.py").write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    packed(bundle)
    found = verify(bundle, "--timeout", "3")
    assert found.exit_code == 1 and "did not end" in found.stderr and "--timeout" in found.stderr
    stat = Path(f"/proc/{started.read_text()}/stat")
    deadline = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_self_check_that_says_too_much_or_dies(bundle):
    (bundle / "self_check.py").write_text("print('x' * 10_000_000)\nraise SystemExit(1)\n")
    packed(bundle)
    found = verify(bundle)
    assert found.exit_code == 1 and len(found.stderr) < 6000
    if os.name == "posix":
        (bundle / "self_check.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
        packed(bundle)
        assert "SIGSEGV" in verify(bundle).stderr


def test_without_running_it(bundle):
    (bundle / "self_check.py").write_text("raise SystemExit(1)\n")
    packed(bundle)
    found = verify(bundle, "--no-run")
    assert found.exit_code == 0 and "was not run" in found.stdout


# Signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    if not shutil.which("ssh-keygen"):
        pytest.skip("there is no ssh-keygen (Debian: openssh-client)")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.org", "-f", folder / name]
        subprocess.run(command, check=True)
    return folder


def test_a_signature(bundle, keys, tmp_path):
    assert "not signed" in verify(bundle, "--signer", keys / "ours.pub").stderr
    sign(bundle / "SHA256SUMS", keys / "ours")
    found = verify(bundle)
    assert found.exit_code == 0 and "signature was not checked" in found.stdout
    assert by_itself(bundle).returncode == 0
    found = verify(bundle, "--signer", keys / "ours.pub")
    assert found.exit_code == 0 and "signed by ours@example.org" in found.stdout
    both = tmp_path / "keys"
    both.write_text((keys / "theirs.pub").read_text() + (keys / "ours.pub").read_text())
    assert "signed by ours@example.org" in verify(bundle, "--signer", both).stdout
    both.write_text(f"# whom we know\nbuild@example.org {(keys / 'ours.pub').read_text()}")
    assert "signed by build@example.org" in verify(bundle, "--signer", both).stdout
    found = verify(bundle, "--signer", keys / "theirs.pub")
    assert found.exit_code == 1 and "not of these files by one of these signers" in found.stderr


def test_a_signature_of_other_files_or_for_something_else(bundle, keys):
    sign(bundle / "SHA256SUMS", keys / "ours")
    (bundle / "infer.py").write_text("raise SystemExit(0)\n")
    packed(bundle)  # the list is right again
    assert verify(bundle).exit_code == 1 and verify(bundle, "--signer", keys / "ours.pub").exit_code == 1
    for namespace, allowed in (("git", 1), ("kdcompress-bundle", 0)):
        (bundle / "SHA256SUMS.sig").unlink()
        subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-q", "-f", keys / "ours", "-n", namespace, bundle / "SHA256SUMS"], check=True
        )
        found = verify(bundle, "--signer", keys / "ours.pub", "--no-run")
        assert found.exit_code == allowed, namespace


def test_keys_that_are_none(bundle, keys, tmp_path):
    sign(bundle / "SHA256SUMS", keys / "ours")
    (tmp_path / "empty").write_text("# none\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, said in (("empty", "no key in this file"), ("bytes", "cannot be read"), ("none", "cannot be read")):
        found = verify(bundle, "--signer", tmp_path / name)
        assert found.exit_code == 2 and said in found.stderr, found.output
    assert "is a private key" in verify(bundle, "--signer", keys / "ours").stderr
    with pytest.raises(UsageError, match="There is no such key"):
        check_key(tmp_path / "none")
    (bundle / "SHA256SUMS.sig").write_text("no signature")
    assert verify(bundle, "--signer", keys / "ours.pub").exit_code == 1


def test_the_logits_are_compared(bundle):
    expected = json.loads((bundle / "expected.json").read_text())
    expected["logits"] = (np.array(expected["logits"]) * 1.1).tolist()
    (bundle / "expected.json").write_text(json.dumps(expected))
    packed(bundle)
    found = verify(bundle)
    assert found.exit_code == 1 and "logits differ" in found.stderr
